"""Images on their way through the clean check and one attack after the other; those that fall leave."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robust_clip.attacks import AttackRun, sample_generators
from robust_clip.threat_model import ThreatModel

from .bench import Bench, numerics
from .gallery import Gallery
from .records import Sample

# An attack is handed this many batches at once, and makes up each batch anew of the images that still stand, so that
# batches stay full while images fall.
POOLED_BATCHES = 4


@dataclass(frozen=True)
class Candidate:
    """An image that still stands.

    Args:
        pixels: Clean image, `(3, H, W)` in [0, 1].
        label: True class.
        sample: What is known of it so far.
    """

    pixels: Tensor
    label: int
    sample: Sample


class Cascade:
    """Stages that images pass: stage 0 is the clean check, stage k the k-th attack of the protocol.

    At each stage images wait until several whole batches of one size have gathered, so that attacks, which are where
    the time goes, run on full batches. What happens to an image does not depend on its company: its random numbers
    come from the seed and its index, and the classifier fills batches up to row counts that round alike.

    Args:
        bench: What attacks and judges.
        seed: Of the random starts.
        batch_size: Images in one forward pass.
        gallery: Where a few of the broken images are kept.
    """

    def __init__(self, bench: Bench, seed: int, batch_size: int, gallery: Gallery | None = None) -> None:
        self.bench = bench
        self.seed = seed
        self.batch_size = batch_size
        self.gallery = gallery
        self.stages = bench.protocol.stages
        self._waiting: list[dict[torch.Size, list[Candidate]]]
        self._waiting = [defaultdict(list) for _ in range(len(self.stages) + 1)]

    def feed(self, candidates: Iterable[Candidate]) -> Iterator[list[Sample]]:
        """Take in images, each at the stage that it has come to, and run every stage that has enough of them.

        Yields:
            New states of samples, after each pass of a stage.
        """
        for candidate in candidates:
            stage = 0 if candidate.sample.clean_prediction is None else candidate.sample.withstood + 1
            self._waiting[stage][candidate.pixels.shape].append(candidate)
        yield from self._run(drain=False)

    def drain(self) -> Iterator[list[Sample]]:
        """Run whatever still waits; yields as `feed`."""
        yield from self._run(drain=True)

    def _run(self, drain: bool) -> Iterator[list[Sample]]:
        for stage, sizes in enumerate(self._waiting):
            most = self.batch_size * (POOLED_BATCHES if stage else 1)
            for waiting in sizes.values():
                while len(waiting) >= (1 if drain else most):
                    pool, waiting[:] = waiting[:most], waiting[most:]
                    yield self._pass(stage, pool)

    def _pass(self, stage: int, pool: list[Candidate]) -> list[Sample]:
        """Run one stage; survivors go on to the next. Returns samples that are through or stood up to an attack."""
        changed = []
        images, predictions = self._predict(stage, pool)
        for candidate, image, prediction in zip(pool, images, predictions, strict=True):
            fell = prediction != candidate.label
            if stage == 0:
                sample = replace(candidate.sample, clean_prediction=prediction)
            else:
                broken_by = self.bench.protocol.attack_names[stage - 1] if fell else None
                withstood = stage - 1 if fell else stage
                sample = replace(
                    candidate.sample, adversarial_prediction=prediction, broken_by=broken_by, withstood=withstood
                )
                if self.gallery and fell and self.stages[stage - 1]:
                    self.gallery.hang(sample, candidate.pixels, image)
            if stage or sample.through(len(self.stages)):
                changed.append(sample)
            if not sample.through(len(self.stages)):
                self._waiting[stage + 1][candidate.pixels.shape].append(replace(candidate, sample=sample))
        return changed

    def _predict(self, stage: int, pool: list[Candidate]) -> tuple[Tensor, list[int]]:
        """The images of a stage, and classes predicted by a forward pass that no attack had a hand in."""
        pixels = torch.stack([candidate.pixels for candidate in pool]).to(self.bench.device)
        with numerics(self.bench.protocol.precision, self.bench.device.type), torch.no_grad():
            run = self.stages[stage - 1] if stage else None
            if run is not None and self.bench.protocol.threat_model is not None:
                pixels = self._attack(run, self.bench.protocol.threat_model, pixels, pool)
            logits = torch.cat([self.bench.logits(batch, stage > 0) for batch in pixels.split(self.batch_size)])
        if not logits.isfinite().all():
            finite = logits.isfinite().all(dim=1).tolist()
            rows = [candidate.sample.index for candidate, ok in zip(pool, finite, strict=True) if not ok]
            raise FloatingPointError(f"the model's logits are not finite for the images at rows {rows} of the split")
        return pixels, logits.argmax(dim=1).tolist()

    def _attack(self, run: AttackRun, threat_model: ThreatModel, pixels: Tensor, pool: list[Candidate]) -> Tensor:
        if threat_model.epsilon == 0:
            # Nowhere to go. The battery of checks does without this: that an attack goes nowhere is for it to find.
            return pixels
        labels = torch.tensor([candidate.label for candidate in pool], device=pixels.device)
        rows = [candidate.sample.index for candidate in pool]
        how = {"generators": sample_generators(self.seed, rows), "batch_size": self.batch_size}
        try:
            return self.bench.attack(run, threat_model, pixels, labels, **how)
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; the samples are rows {rows} of the split") from error
