"""`robust-clip compare`: our attacks beside those of `pyautoattack`, on the same images, logits and cores."""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import tqdm
from torch import Tensor, nn

from robust_clip.attacks import VERSIONS, AttackRun, fit_to_classes
from robust_clip.data import PixelCollator, load_image_dataset
from robust_clip.evaluation import Protocol, Sample, weights_revision
from robust_clip.evaluation.bench import Bench, set_up
from robust_clip.evaluation.cascade import Candidate, Cascade
from robust_clip.evaluation.evaluator import require_classes
from robust_clip.evaluation.processes import process_state
from robust_clip.evaluation.records import latest, write_json
from robust_clip.models import load_checkpoint
from robust_clip.threat_model import ThreatModel, format_size

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


@dataclass(frozen=True)
class Outcome:
    """What one attack, or all of them in a row, left standing.

    Args:
        standing: Images classified rightly, clean and attacked, out of all.
        seconds: Wall time.
        forward_passes: For each image that the attack began with, on average.
        backward_passes: Likewise.
    """

    standing: int
    seconds: float
    forward_passes: float
    backward_passes: float


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

    def ours(self, runs: tuple[AttackRun, ...]) -> Outcome:
        """Our attacks, as `robust-clip evaluate` runs them."""
        threat_model = self.bench.protocol.threat_model
        protocol = Protocol("compared", 1, runs, threat_model)

        def run(classifier: Any) -> int:
            cascade = Cascade(Bench(classifier, protocol, self.bench.device), self.seed, self.batch_size)
            candidates = [
                Candidate(image, int(label), Sample(row, int(label)))
                for image, label, row in zip(self.pixels, self.labels, self.rows, strict=True)
            ]
            passes = [*cascade.feed(candidates), *cascade.drain()]
            return sum(sample.robust for sample in latest(sample for samples in passes for sample in samples))

        return self._timed(run)

    def theirs(self, attacks: list[str]) -> Outcome:
        """Those of `pyautoattack`, with the settings of its version `standard`."""
        from pyautoattack import AutoAttack

        threat_model = self.bench.protocol.threat_model
        if threat_model is None:
            raise ValueError("a comparison of attacks needs a threat model")

        def run(classifier: Any) -> int:
            norm: Any = _THEIR_NORMS[threat_model.norm]
            attack = AutoAttack(
                classifier, norm=norm, eps=threat_model.epsilon, seed=self.seed, device=str(self.bench.device)
            )
            attack.attacks_to_run = attacks
            adversarial, _ = attack.run_standard_evaluation(self.pixels, self.labels, batch_size=self.batch_size)
            inside = threat_model.distance(adversarial, self.pixels) <= threat_model.epsilon + 1e-6
            if not inside.all():
                raise RuntimeError(f"pyautoattack left {threat_model} for {int((~inside).sum())} images")
            with torch.no_grad():
                batches = adversarial.split(self.batch_size)
                found = torch.cat([self.bench.classifier(batch).argmax(dim=1) for batch in batches])
            return int((found == self.labels).sum())

        return self._timed(run)

    def _timed(self, run: Callable[[Counted], int]) -> Outcome:
        counted = Counted(self.bench.classifier).eval()
        start = time.perf_counter()
        standing = run(counted)
        seconds = time.perf_counter() - start
        passes = counted.forward_rows / len(self.rows), counted.backward_rows / len(self.rows)
        return Outcome(standing, round(seconds, 1), round(passes[0], 1), round(passes[1], 1))


def run(args: argparse.Namespace) -> int:
    """Compares each attack by itself, then all in a row."""
    comparison, identity = _prepare(args)
    runs, substituted = fit_to_classes(VERSIONS["standard"], comparison.bench.classifier.class_embeds.shape[0])
    if substituted:
        raise ValueError(f"{args.datasets} has too few classes for a fair comparison: {'; '.join(substituted)}")
    singles = [run for run in runs if args.attacks is None or str(run) in args.attacks]
    plans = [(str(single), (single,)) for single in singles] + ([] if args.attacks else [("standard", runs)])
    result: dict[str, Any] = identity | {"outcomes": {}}
    for name, members in tqdm(plans, desc=f"{args.datasets} {args.epsilon}"):
        names = [_THEIR_NAMES[str(member)] for member in members]
        pair = {"ours": asdict(comparison.ours(members)), "pyautoattack": asdict(comparison.theirs(names))}
        if name == "standard":
            without = tuple(member for member in members if not str(member).startswith("fab"))
            pair["ours without fab"] = asdict(comparison.ours(without))
        result["outcomes"][name] = pair
        if args.out:
            write_json(args.out, result)
    print(format_comparison(result))
    return 0


def format_comparison(result: dict[str, Any]) -> str:
    """A table in Markdown: images standing, seconds, and passes for each image that is right clean."""
    lines = [
        f"{result['model']}, {result['dataset']}, {result['threat_model']}, {result['n']} images, "
        f"{result['right_clean']} of them right clean, seed {result['seed']}",
        "",
        "| attack | by | standing | % of all | seconds | forward | of them with backward |",
        "|---|---|---|---|---|---|---|",
    ]
    for attack, pair in result["outcomes"].items():
        for package, outcome in pair.items():
            share = f"{100 * outcome['standing'] / result['n']:.1f}"
            passes = (f"{outcome['forward_passes']:.0f}", f"{outcome['backward_passes']:.0f}")
            cells = (attack, package, str(outcome["standing"]), share, f"{outcome['seconds']:.0f}", *passes)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _prepare(args: argparse.Namespace) -> tuple[Comparison, dict[str, Any]]:
    threat_model = ThreatModel(args.norm, args.epsilon)
    protocol = Protocol("compared", 1, VERSIONS["standard"], threat_model, samples=args.samples)
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
    add("--model", required=True, help="directory or Hub id of a CLIP checkpoint, or nano_clip")
    add("--datasets", required=True, help="name, Hub id or path of one data set")
    add("--root", help="folder whose sub-folders stand in for data sets of the Hub")
    add("--split", default="test", help="split of the data set")
    add("--norm", choices=tuple(_THEIR_NORMS), default="linf", help="of the threat model")
    add("--epsilon", default="4/255", help="radius")
    add("--resolution", choices=("native", "model"), default="native", help="grid of the perturbation")
    add("--samples", type=int, default=500, help="images drawn from the split by the seed")
    add("--attacks", nargs="+", choices=tuple(_THEIR_NAMES), help="only these, and not all in a row")
    add("--seed", type=int, default=0, help="of the choice of images and of both packages")
    add("--batch_size", type=int, default=64, help="images in one forward pass, of both packages")
    add("--out", help="JSON file for the result, rewritten after each attack")
    parser.set_defaults(run=run)
