"""`robust-clip merge`: weights between an original checkpoint and the robust one trained from it."""

import argparse
import sys
from pathlib import Path
from typing import Any

from robust_clip.evaluation import require_writable
from robust_clip.models import interpolate, load_checkpoint


def run(args: argparse.Namespace) -> int:
    """Mixes, saves, and says where."""
    out = Path(args.out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; give a new folder for the merged checkpoint.")
    original, _ = load_checkpoint(args.original)
    robust, processor = load_checkpoint(args.robust)
    if getattr(robust, "peft_config", None):
        robust.merge_and_unload()
    merged = interpolate(original, robust, args.alpha)
    require_writable(out)
    merged.save_pretrained(out)
    processor.save_pretrained(out)
    sys.stdout.write(f"Wrote {out}: {1 - args.alpha:g} of {args.original} and {args.alpha:g} of {args.robust}.\n")
    return 0


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("merge", help="mix original and robust weights", description=__doc__)
    parser.add_argument("original", help="checkpoint that training began from: a path, a Hub id, or nano_clip")
    parser.add_argument("robust", help="checkpoint or adapter that was trained from it; an adapter is merged first")
    parser.add_argument("out", help="folder for the mixed checkpoint")
    parser.add_argument("--alpha", type=float, default=0.5, help="share of the robust weights, from 0 to 1")
    parser.set_defaults(run=run)
