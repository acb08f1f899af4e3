"""`robust-clip benchmark`: what an objective's training step costs beside a clean step and beside its floor."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from robust_clip.attacks import ATTACKS
from robust_clip.evaluation.records import write_json
from robust_clip.objectives import OBJECTIVES
from robust_clip.threat_model import ThreatModel

from .report import deliver
from .step_cost import cost_table, read_costs
from .training_step import SIZES, check_adaptation, measure


def run(args: argparse.Namespace) -> int:
    """Measures and prints, or renders what was measured before."""
    if args.render:
        deliver(cost_table(read_costs(args.render)), args.into)
        return 0
    if args.objective not in OBJECTIVES:
        raise ValueError(f"Unknown objective {args.objective!r}; known: {', '.join(sorted(OBJECTIVES))}.")
    if args.repeats < 1:
        raise ValueError(f"--repeats must be at least 1, got {args.repeats}.")
    if args.into:
        raise ValueError("--into takes the table of --render; --out keeps what is measured now.")
    ThreatModel("linf", args.epsilon)
    check_adaptation(args)
    cost = measure(args)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, asdict(cost))
    sys.stdout.write(f"{cost}\n")
    return 0


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("benchmark", help="cost of a training step beside its floor", description=__doc__)
    parser.add_argument("--objective", default="tecoa", help=f"one of {', '.join(OBJECTIVES)}")
    parser.add_argument(
        "--adaptation", help="what learns: full, lora, '{name: lora, r: 4}', ...; by default the objective's towers"
    )
    parser.add_argument("--attack", default="pgd", help=f"one of {', '.join(ATTACKS)}")
    parser.add_argument("--steps", type=int, help="gradient steps, in place of the attack's own; 2 for pgd")
    texts = ("charmer", "leaf", "word_list")
    parser.add_argument("--text_attack", choices=texts, default="word_list", help="for objectives that attack texts")
    parser.add_argument("--epsilon", default="1/255", help="radius in pixel units")
    parser.add_argument("--model", default="vit_b32", help=f"{', '.join(SIZES)} at random, or a checkpoint")
    parser.add_argument("--classes", type=int, default=200, help="number of class prompts")
    parser.add_argument("--batch_size", type=int, default=16, help="images in a step")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each kind, after one that is not")
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast")
    parser.add_argument("--out", type=Path, help="JSON file that keeps the figures, too")
    parser.add_argument("--render", type=Path, metavar="FOLDER", help="measure nothing: the files of --out as a table")
    parser.add_argument("--into", type=Path, help="Markdown file with the markers of a table, for --render")
    parser.set_defaults(run=run)
