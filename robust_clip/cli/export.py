"""`robust-clip export`: a checkpoint as an ONNX file that takes pixels, or tokens."""

import argparse
import sys
from pathlib import Path
from typing import Any

from robust_clip.data.prompts import PAPER_TEMPLATE
from robust_clip.evaluation import require_writable
from robust_clip.models import ZeroShotClassifier, class_templates, embed_classes, load_checkpoint
from robust_clip.models.onnx import export_classifier, export_image_tower, export_text_tower

from .recipe import commas


def run(args: argparse.Namespace) -> int:
    """Exports, compares with the model, and says how near it is."""
    out = Path(args.out)
    if out.suffix != ".onnx":
        raise ValueError(f"The file must end with .onnx, got {args.out!r}.")
    if out.exists():
        raise ValueError(f"{out} exists; give a new file.")
    if args.tower == "text" and (args.classes is not None or args.side):
        raise ValueError("--classes and --side belong to the image tower; leave them out for --tower text.")
    if args.template and args.classes is None:
        raise ValueError("--template belongs to --classes; give class names, too.")
    require_writable(out.parent)
    model, processor = load_checkpoint(args.checkpoint)
    if args.tower == "text":
        difference = export_text_tower(model, out)
    elif args.classes is not None:
        templates = class_templates(model, [args.template or PAPER_TEMPLATE])
        embeds = embed_classes(model, processor.tokenizer, args.classes, templates)
        difference = export_classifier(ZeroShotClassifier(model, embeds), out, args.side)
    else:
        difference = export_image_tower(model, out, args.side)
    sys.stdout.write(f"Wrote {out}; in onnxruntime it differs by {difference:.1e} of the model's largest output.\n")
    return 0


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("export", help="write a checkpoint as an ONNX file", description=__doc__)
    parser.add_argument("checkpoint", help="a path, a Hub id, or nano_clip")
    parser.add_argument("out", help="file to write, ending with .onnx")
    parser.add_argument("--tower", choices=("vision", "text"), default="vision", help="which tower to export")
    parser.add_argument("--classes", type=commas, help="names with commas: logits of these classes, not features")
    parser.add_argument("--template", help=f"sentence with {{}} for the class name; by default {PAPER_TEMPLATE!r}")
    parser.add_argument("--side", type=int, help="side of the images in pixels, if not the model's own")
    parser.set_defaults(run=run)
