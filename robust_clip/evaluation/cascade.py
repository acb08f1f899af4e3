"""Images on their way through the clean check and one attack after the other; those that fall leave."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from robust_clip.attacks import sample_generators
from robust_clip.models import ZeroShotClassifier
from robust_clip.threat_model import ThreatModel

from .protocol import AttackRun, Precision, Protocol
from .records import Sample


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

    At each stage images wait until a whole batch of one size has gathered, so that attacks, which are where the time
    goes, run on full batches. What happens to an image does not depend on its company: its random numbers come from
    the seed and its index, and the classifier fills batches up to row counts that round alike.

    Args:
        classifier: From pixels to logits, in eval mode.
        protocol: The attacks, what they may do, and the precision.
        seed: Of the random starts.
        batch_size: Images in a batch.
        device: Of the classifier.
    """

    def __init__(
        self, classifier: ZeroShotClassifier, protocol: Protocol, seed: int, batch_size: int, device: torch.device
    ) -> None:
        self.classifier = classifier
        self.protocol = protocol
        self.seed = seed
        self.batch_size = batch_size
        self.device = device
        self._waiting: list[dict[torch.Size, list[Candidate]]]
        self._waiting = [defaultdict(list) for _ in range(len(protocol.attacks) + 1)]

    def feed(self, candidates: Iterable[Candidate]) -> list[Sample]:
        """Take in images and run every batch that is full; returns the samples that are through."""
        for candidate in candidates:
            self._waiting[0][candidate.pixels.shape].append(candidate)
        return self._run(smallest=self.batch_size)

    def drain(self) -> list[Sample]:
        """Run whatever still waits; returns the samples that are through."""
        return self._run(smallest=1)

    def _run(self, smallest: int) -> list[Sample]:
        through = []
        for stage, sizes in enumerate(self._waiting):
            for waiting in sizes.values():
                while len(waiting) >= smallest:
                    batch, waiting[:] = waiting[: self.batch_size], waiting[self.batch_size :]
                    through += self._judge(stage, batch)
        return through

    def _judge(self, stage: int, batch: list[Candidate]) -> list[Sample]:
        """Run one stage; survivors go on to the next, and those that fell or have no stage left are returned."""
        through = []
        for candidate, prediction in zip(batch, self._predict(stage, batch), strict=True):
            fell = prediction != candidate.label
            if stage == 0:
                sample = replace(candidate.sample, clean_prediction=prediction)
            else:
                broken_by = self.protocol.attack_names[stage - 1] if fell else None
                sample = replace(candidate.sample, adversarial_prediction=prediction, broken_by=broken_by)
            if fell or stage == len(self.protocol.attacks):
                through.append(sample)
            else:
                self._waiting[stage + 1][candidate.pixels.shape].append(replace(candidate, sample=sample))
        return through

    def _predict(self, stage: int, batch: list[Candidate]) -> list[int]:
        """Classes predicted on the images of a stage, by a forward pass that no attack had a hand in."""
        pixels = torch.stack([candidate.pixels for candidate in batch]).to(self.device)
        with numerics(self.protocol.precision, self.device.type), torch.no_grad():
            if stage and self.protocol.threat_model is not None:
                pixels = self._attack(self.protocol.attacks[stage - 1], self.protocol.threat_model, pixels, batch)
            logits = self.classifier(pixels)
        if not logits.isfinite().all():
            finite = logits.isfinite().all(dim=1).tolist()
            rows = [candidate.sample.index for candidate, ok in zip(batch, finite, strict=True) if not ok]
            raise FloatingPointError(f"the model's logits are not finite for the images at rows {rows} of the split")
        predictions: list[int] = logits.argmax(dim=1).tolist()
        return predictions

    def _attack(self, run: AttackRun, threat_model: ThreatModel, pixels: Tensor, batch: list[Candidate]) -> Tensor:
        loss = run.loss_of(torch.tensor([candidate.label for candidate in batch], device=pixels.device))
        rows = [candidate.sample.index for candidate in batch]
        try:
            return run.attack(self.classifier, pixels, loss, threat_model, sample_generators(self.seed, rows))
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; the batch is rows {rows} of the split") from error


@contextmanager
def numerics(precision: Precision, device_type: str) -> Iterator[None]:
    """Compute in the precision of a protocol, whatever the caller's settings; they are put back afterwards."""
    # cuDNN convolves in TF32 unless told otherwise. Recurrent nets are listed only because PyTorch complains about
    # reading its older flag while its parts differ.
    cudnn: Any = torch.backends.cudnn
    backends: list[Any] = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device_type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        for backend, setting in zip(backends, before, strict=True):
            backend.fp32_precision = setting
