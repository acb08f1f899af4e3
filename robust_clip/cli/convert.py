"""`robust-clip convert`: a published checkpoint of any known format, as a folder that stock CLIPModel loads."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from robust_clip.hub.convert import TARGETS, convert_checkpoint, load_published
from robust_clip.hub.prompters import save_prompters
from robust_clip.models import RobustCLIPModel, packaged_checkpoint, require_checkpoint

_PROMPTS = "prompts"


def run(args: argparse.Namespace) -> int:
    """Converts, and prints the record."""
    for name in filter(None, (args.source, args.base)):
        require_checkpoint(name, revision=args.revision if name == args.source else None)
    converted = load_published(
        packaged_checkpoint(args.source),
        base=packaged_checkpoint(args.base) if args.base else None,
        hidden_act=args.hidden_act,
        unchecked=args.unchecked,
        **({"revision": args.revision} if args.revision else {}),
    )
    if converted.prompters and args.to != "huggingface":
        raise ValueError(f"{args.source} has visual prompts, which {args.to} has no place for; leave out --to.")

    def write_prompters(folder: Path) -> None:
        model = RobustCLIPModel.from_pretrained(folder)
        model.name_or_path = args.out  # the base that the prompts name
        save_prompters(converted.prompters, model, folder / _PROMPTS)

    record = convert_checkpoint(converted, args.out, args.to, also=write_prompters if converted.prompters else None)
    sys.stdout.write(json.dumps(record, indent=2) + "\n")
    sys.stdout.write(f"Wrote {args.out}.\n")
    if converted.prompters:
        folder = Path(args.out) / _PROMPTS
        sys.stdout.write(
            f"Its visual prompts have no place in a CLIPModel and are in {folder}: without them the model is not what "
            f'was trained. PromptedCLIPModel.from_pretrained("{folder}", base="{args.out}") loads both.\n'
        )
    return 0


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("convert", help="convert a published checkpoint", description=__doc__)
    parser.add_argument("source", help="file, folder, Hub id, or OWNER/NAME/FILE; see `robust-clip models`")
    parser.add_argument("out", help="folder for the converted checkpoint")
    parser.add_argument("--base", help="the clean CLIP that it was trained from: lends text tower and tokenizer")
    parser.add_argument("--hidden_act", help="quick_gelu or gelu, where neither the checkpoint nor the registry says")
    parser.add_argument(
        "--unchecked", action="store_true", help="take --base and --hidden_act at their word, contradicted or not"
    )
    parser.add_argument("--to", choices=TARGETS, default=TARGETS[0], help="format to write")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.set_defaults(run=run)
