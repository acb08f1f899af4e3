"""`robust-clip compare`: our attacks beside those of `pyautoattack`, on the same images, logits and cores."""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import tqdm
from torch import Tensor, nn

from robust_clip.attacks import VERSIONS, AttackRun, fit_to_classes
from robust_clip.data import PixelCollator, load_image_dataset
from robust_clip.evaluation import Protocol, Sample, weights_revision
from robust_clip.evaluation.bench import Bench, require_batch_size, set_up
from robust_clip.evaluation.cascade import Candidate, Cascade
from robust_clip.evaluation.evaluator import require_classes
from robust_clip.evaluation.processes import process_state
from robust_clip.evaluation.records import OURS, latest, library_versions, write_json
from robust_clip.evaluation.run_folder import advice, require_writable
from robust_clip.models import load_checkpoint, require_checkpoint
from robust_clip.threat_model import ThreatModel, format_size, require_radius

from .comparison_table import PACKAGES, Outcome, format_comparison, read_comparisons
from .recipe import commas
from .report import deliver

_THEIR_NAMES = {
    "apgd-cross_entropy": "apgd-ce",
    "apgd_t-dlr": "apgd-t",
    "fab_t-margin": "fab-t",
    "square-margin": "square",
}
_THEIR_NORMS = {"linf": "Linf", "l2": "L2"}


class Counted(nn.Module):
    """A classifier that counts the rows that pass through it, forward, and forward with a backward pass to follow."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier
        self.forward_rows = self.backward_rows = 0

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of pixels."""
        self.forward_rows += len(pixels)
        self.backward_rows += len(pixels) if pixels.requires_grad else 0
        logits: Tensor = self.classifier(pixels)
        return logits

    def embed(self, pixels: Tensor) -> Tensor:
        """Features of pixels; uncounted, since no attack here climbs them."""
        features: Tensor = self.classifier.embed(pixels)  # type: ignore[operator]
        return features


@dataclass(frozen=True, eq=False)
class Comparison:
    """The images, and what both packages attack.

    Args:
        bench: The classifier and the threat model.
        pixels: `(B, 3, H, W)`, all classified rightly.
        labels: `(B,)`.
        rows: Of the images in their split.
        seed: Of both.
        batch_size: Of both.
    """

    bench: Bench
    pixels: Tensor
    labels: Tensor
    rows: list[int]
    seed: int
    batch_size: int

    def measure(self, plan: str, run: AttackRun, package: str, rows: list[int]) -> Outcome:
        """Gives the images of `rows` to one attack of one package."""
        kept = [self.rows.index(row) for row in rows]
        pixels, labels = self.pixels[kept], self.labels[kept]
        counted = Counted(self.bench.classifier).eval()
        wall, cpu = time.perf_counter(), time.process_time()
        standing = self._attack(counted, package, run, pixels, labels, rows) if rows else []
        return Outcome(
            plan,
            str(run),
            package,
            len(rows),
            standing,
            round(time.perf_counter() - wall, 2),
            round(time.process_time() - cpu, 2),
            counted.forward_rows,
            counted.backward_rows,
            library_versions()[OURS],
        )

    def _attack(
        self, classifier: Any, package: str, run: AttackRun, pixels: Tensor, labels: Tensor, rows: list[int]
    ) -> list[int]:
        """Rows that stand."""
        if package == "pyautoattack":
            found = self._theirs(classifier, _THEIR_NAMES[str(run)], pixels, labels)
            return [row for row, stands in zip(rows, found == labels, strict=True) if stands]
        protocol = Protocol("compared", 1, (run,), self.bench.protocol.threat_model)
        cascade = Cascade(Bench(classifier, protocol, self.bench.device), self.seed, self.batch_size)
        candidates = [
            Candidate(image, int(label), Sample(row, int(label), int(label)))
            for image, label, row in zip(pixels, labels, rows, strict=True)
        ]
        passes = [*cascade.feed(candidates), *cascade.drain()]
        return sorted(sample.index for sample in latest(sample for part in passes for sample in part) if sample.robust)

    def _theirs(self, classifier: Any, attack: str, pixels: Tensor, labels: Tensor) -> Tensor:
        """Classes `(B,)` after an attack of `pyautoattack` with the settings of its version `standard`."""
        from pyautoattack import AutoAttack

        threat_model = self.bench.protocol.threat_model
        if threat_model is None:
            raise ValueError("a comparison of attacks needs a threat model")
        norm: Any = _THEIR_NORMS[threat_model.norm]
        ensemble = AutoAttack(
            classifier, norm=norm, eps=threat_model.epsilon, seed=self.seed, device=str(self.bench.device)
        )
        ensemble.attacks_to_run = [attack]
        adversarial, _ = ensemble.run_standard_evaluation(pixels, labels, batch_size=self.batch_size)
        inside = threat_model.distance(adversarial, pixels) <= threat_model.epsilon + 1e-6
        if not inside.all():
            raise RuntimeError(f"pyautoattack left {threat_model} for {int((~inside).sum())} images")
        with torch.no_grad():
            batches = adversarial.split(self.batch_size)
            return torch.cat([self.bench.classifier(batch).argmax(dim=1) for batch in batches])


def run(args: argparse.Namespace) -> int:
    """Compares the attacks of version `standard` in a row, or each alone, and goes on from what `--out` holds."""
    if args.render:
        if args.model or args.datasets or args.out:
            raise ValueError("--render measures nothing; leave --model, --datasets and --out out.")
        deliver(read_comparisons(args.render), args.into)
        return 0
    if not (args.model and args.datasets):
        raise ValueError("give what to compare on, --model and --datasets, or --render FOLDER")
    if args.into:
        raise ValueError("--into takes the tables of --render; --out keeps what is measured now.")
    if unknown := set(args.attacks or ()) - _THEIR_NAMES.keys():
        raise ValueError(f"unknown attacks {', '.join(sorted(unknown))}, known: {', '.join(_THEIR_NAMES)}")
    require_batch_size(args.batch_size)
    if args.out:
        require_writable(Path(args.out).parent)
    for run in VERSIONS["standard"]:
        run.attack.require_packages()
    comparison, identity = _prepare(args)
    runs, substituted = fit_to_classes(VERSIONS["standard"], comparison.bench.classifier.class_embeds.shape[0])
    if substituted:
        raise ValueError(f"{args.datasets} has too few classes for a fair comparison: {'; '.join(substituted)}")
    outcomes = _read_outcomes(args.out, identity)
    plan = "alone" if args.attacks else "in a row"
    runs = tuple(run for run in runs if not args.attacks or str(run) in args.attacks)
    standing = dict.fromkeys(PACKAGES, comparison.rows)
    for run, package in tqdm(list(product(runs, PACKAGES)), desc=f"{args.datasets} {args.epsilon}"):
        key = plan, str(run), package
        if key not in outcomes:
            rows = standing[package] if plan == "in a row" else comparison.rows
            outcomes[key] = comparison.measure(plan, run, package, rows)
            if args.out:
                with advice(args.out, way="the same command"):
                    write_json(args.out, identity | {"outcomes": [asdict(outcome) for outcome in outcomes.values()]})
        standing[package] = outcomes[key].standing
    print(format_comparison(identity, list(outcomes.values())))
    return 0


def _read_outcomes(path: str | None, identity: Mapping[str, Any]) -> dict[tuple[str, str, str], Outcome]:
    """What an earlier run of the same comparison found."""
    if path is None or not Path(path).exists():
        return {}
    found = json.loads(Path(path).read_text())
    if different := [name for name, value in identity.items() if found.get(name) != value]:
        told = ", ".join(f"{name} {found.get(name)!r} there and {identity[name]!r} here" for name in different)
        raise ValueError(f"{path} holds another comparison: {told}. Name another file with --out.")
    outcomes = [Outcome(**outcome) for outcome in found["outcomes"]]
    return {(outcome.plan, outcome.attack, outcome.package): outcome for outcome in outcomes}


def _prepare(args: argparse.Namespace) -> tuple[Comparison, dict[str, Any]]:
    threat_model = ThreatModel(args.norm, args.epsilon)
    require_radius(threat_model)
    protocol = Protocol("compared", 1, VERSIONS["standard"], threat_model, samples=args.samples)
    require_checkpoint(args.model)
    dataset = load_image_dataset(args.datasets, args.split, root=args.root)
    names = require_classes(dataset)
    loaded, processor = load_checkpoint(args.model)
    model: Any = loaded.to(process_state().device).eval()
    bench = set_up(model, processor.tokenizer, names, dataset.templates[:1], protocol, args.seed)
    chosen = protocol.choose(len(dataset), args.seed)
    batch = PixelCollator(model.image_size, args.resolution)([dataset[row] for row in chosen])
    # pyautoattack takes views of gradients, which have the memory layout of the images.
    pixels, labels = batch["pixels"].contiguous().to(bench.device), batch["labels"].to(bench.device)
    with torch.no_grad():
        logits = torch.cat([bench.classifier(images) for images in pixels.split(args.batch_size)])
    right = (logits.argmax(dim=1) == labels).nonzero().flatten()
    if not len(right):
        raise ValueError(f"no image of {dataset.name} is classified rightly, so there is nothing to attack")
    rows = [chosen[place] for place in right.tolist()]
    comparison = Comparison(bench, pixels[right], labels[right], rows, args.seed, args.batch_size)
    identity = {
        "model": Path(args.model).name,
        "revision": weights_revision(model),
        "dataset": f"{dataset.name}-{dataset.split}",
        "threat_model": f"{args.norm} {format_size(threat_model.epsilon)}",
        "resolution": args.resolution,
        "n": len(chosen),
        "right_clean": len(rows),
        "seed": args.seed,
        "batch_size": args.batch_size,
        "threads": torch.get_num_threads(),
    }
    return comparison, identity


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "compare",
        help="our attacks beside those of pyautoattack",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", help="directory or Hub id of a CLIP checkpoint, or nano_clip")
    add("--datasets", help="name, Hub id or path of one data set")
    add("--root", help="folder whose sub-folders stand in for data sets of the Hub")
    add("--split", default="test", help="split of the data set")
    add("--norm", choices=tuple(_THEIR_NORMS), default="linf", help="of the threat model")
    add("--epsilon", default="4/255", help="radius")
    add("--resolution", choices=("native", "model"), default="native", help="grid of the perturbation")
    add("--samples", type=int, default=500, help="images drawn from the split by the seed")
    alone = f"only these, each alone: some of {', '.join(_THEIR_NAMES)}; all in a row by default"
    add("--attacks", type=commas, help=alone)
    add("--seed", type=int, default=0, help="of the choice of images and of both packages")
    add("--batch_size", type=int, default=64, help="images in one forward pass, of both packages")
    add("--out", help="JSON file for the result, written after each attack; an unfinished comparison there goes on")
    add("--render", type=Path, metavar="FOLDER", help="measure nothing: the files of --out as tables")
    add("--into", type=Path, help="Markdown file with the markers of a table, for --render")
    parser.set_defaults(run=run)
