"""`robust-clip attack`: one image, one adversarial image, and a picture of both."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from robust_clip.attacks import ATTACKS, LOSSES, sample_generators
from robust_clip.attacks.base import eval_mode
from robust_clip.data import PixelCollator
from robust_clip.data.prompts import PAPER_TEMPLATE
from robust_clip.evaluation import require_writable
from robust_clip.models import ZeroShotClassifier, embed_classes, load_checkpoint
from robust_clip.threat_model import ThreatModel, require_radius

from .recipe import choose_attack, commas

_PANEL = 224


def run(args: argparse.Namespace) -> int:
    """Attacks the image and prints what the model says before and after."""
    names = commas(args.classes)
    if len(names) < 2:
        raise ValueError(f"An attack needs at least two class names, got {names}; separate them with commas.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Classes need names of their own, but {twice} stands twice; name each once.")
    if args.label is not None and args.label not in names:
        raise ValueError(f"The label {args.label!r} is not among the class names {names}.")
    if not Path(args.image).is_file():
        raise ValueError(f"No image file {args.image}.")
    threat_model = ThreatModel(args.norm, args.epsilon)
    require_radius(threat_model)
    attack = choose_attack(args.attack, args.steps, pgd_steps=20)
    require_writable(args.out)

    model, processor = load_checkpoint(args.model)
    classifier = ZeroShotClassifier(model, embed_classes(model, processor.tokenizer, names, [args.template]))
    example = {"image": {"bytes": None, "path": args.image}, "label": -1, "index": 0, "source": args.image}
    pixels = PixelCollator(model.image_size, args.resolution)([example])["pixels"]

    before = _probabilities(classifier, pixels)
    label = names.index(args.label) if args.label else int(before.argmax())
    loss: Any = LOSSES["cross_entropy"]
    adversarial = attack(
        classifier, pixels, loss(torch.tensor([label])), threat_model, sample_generators(args.seed, [0])
    )
    adversarial = _to_eight_bits(adversarial, pixels)
    after = _probabilities(classifier, adversarial)

    out = Path(args.out)
    _image(adversarial).save(out / "adversarial.png")
    captions = (_caption("clean", before, names), "perturbation, magnified", _caption("adversarial", after, names))
    _side_by_side(pixels, adversarial, captions).save(out / "comparison.png")
    _say(f"clean:       {_caption('', before, names)}")
    _say(f"adversarial: {_caption('', after, names)}")
    broken = "fooled" if int(after.argmax()) != label else "not fooled"
    distance = threat_model.distance(adversarial, pixels).item()
    _say(f"The model is {broken} as to {names[label]!r} within {threat_model} (went {distance:.4f} far).")
    _say(f"Wrote {out / 'adversarial.png'} and {out / 'comparison.png'}.")
    return 0


def _probabilities(classifier: ZeroShotClassifier, pixels: Tensor) -> Tensor:
    with torch.no_grad(), eval_mode(classifier):
        return classifier(pixels)[0].softmax(dim=0)


def _to_eight_bits(adversarial: Tensor, pixels: Tensor) -> Tensor:
    """The nearest image that a PNG can hold, rounded towards the clean one so that it stays in the threat model."""
    levels = torch.trunc((adversarial - pixels) * 255 * (1 + 1e-6))
    return ((pixels * 255).round() + levels).clamp(0, 255) / 255


def _image(pixels: Tensor) -> Image.Image:
    return Image.fromarray((pixels[0].permute(1, 2, 0) * 255).round().byte().numpy())


def _caption(title: str, probabilities: Tensor, names: Sequence[str]) -> str:
    best = int(probabilities.argmax())
    return f"{title + ': ' if title else ''}{names[best]} ({100 * probabilities[best]:.0f} %)"


def _side_by_side(pixels: Tensor, adversarial: Tensor, captions: Sequence[str]) -> Image.Image:
    """Clean image, perturbation scaled to the full range around grey, adversarial image, each with its caption."""
    perturbation = adversarial - pixels
    magnified = 0.5 + perturbation / (2 * perturbation.abs().max().clamp(min=1e-8))
    sheet = Image.new("RGB", (3 * _PANEL + 40, _PANEL + 44), "white")
    draw = ImageDraw.Draw(sheet)
    for position, (panel, caption) in enumerate(zip((pixels, magnified, adversarial), captions, strict=True)):
        left = 10 + position * (_PANEL + 10)
        sheet.paste(_image(panel).resize((_PANEL, _PANEL), Image.Resampling.NEAREST), (left, 10))
        draw.text((left, _PANEL + 18), caption, fill="black")
    return sheet


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("attack", help="attack one image and show the result", description=__doc__)
    parser.add_argument("--model", required=True, help="CLIP checkpoint: a path, a Hub id, or nano_clip")
    parser.add_argument("--image", required=True, help="image file")
    parser.add_argument("--classes", required=True, help="class names, separated by commas")
    parser.add_argument("--label", help="true class; by default what the model says of the clean image")
    parser.add_argument("--template", default=PAPER_TEMPLATE, help="sentence with {} for the class name")
    parser.add_argument("--norm", default="linf", help="linf or l2")
    parser.add_argument("--epsilon", default="4/255", help="radius in pixel units, such as 4/255")
    parser.add_argument("--attack", default="pgd", help=f"one of {', '.join(ATTACKS)}")
    parser.add_argument("--steps", type=int, help="gradient steps, in place of the attack's own; 20 for pgd")
    parser.add_argument("--resolution", default="native", help="grid of the perturbation: native or model")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random start")
    parser.add_argument("--out", default="attacked", help="folder for adversarial.png and comparison.png")
    parser.set_defaults(run=run)
