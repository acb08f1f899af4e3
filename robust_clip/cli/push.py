"""`robust-clip push`: a folder of weights to the Hub, with its card, recipe, rows and plots, in one commit."""

import argparse
import sys
from typing import Any

from huggingface_hub import get_token

from robust_clip.hub import ModelFolder, push_folder
from robust_clip.hub.folder import names
from robust_clip.hub.push import full_name
from robust_clip.training.model_card import write_card

from .card import add_options, chosen_rows, told_of, warn_if_not_measured


def run(args: argparse.Namespace) -> int:
    """Checks the folder, writes its card, uploads, and prints the address."""
    found = ModelFolder.read(args.folder)
    found.check()
    if get_token() is None:  # before the card is written
        raise ValueError("No token to write to the Hub: log in by `hf auth login`, or set HF_TOKEN.")
    repo = full_name(args.repo)  # which the card's code loads
    rows, compared = chosen_rows(args.folder, args.rows, repo)
    write_card(args.folder, told_of(args, repo), rows, compared)
    warn_if_not_measured(args.folder, rows)
    if left_out := found.left_out():
        sys.stderr.write(f"Left out: {', '.join(left_out)}.\n")
    url = push_folder(
        found.files(args.rows),
        repo,
        known=list(names(args.folder)),
        private=args.private or None,
        branch=args.branch,
        replace=args.replace,
    )
    sys.stdout.write(f"{url}\n")
    return 0


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("push", help="upload a folder of weights with its card", description=__doc__)
    add_options(parser)
    parser.add_argument("repo", help="OWNER/NAME, or NAME for your own, on the Hub; made if it is not there")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--branch", default="main", help="branch to commit to, made from main if it is not there")
    parser.add_argument("--replace", action="store_true", help="remove files of the repository that DIR does not have")
    parser.set_defaults(run=run)
