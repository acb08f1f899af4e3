"""What every attack keeps to: the model is left as it was, the result is inside the threat model."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, get_args

import torch
from torch import Tensor, nn

from robust_clip.attacks.losses import AttackLoss
from robust_clip.paper import Paper
from robust_clip.threat_model import Norm, ThreatModel

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Problem:
    """What a search works on: images, the function it sees, the loss it climbs and where it may go.

    Args:
        forward: Gives logits or embeddings, `(B, ...)`, of pixels `(B, 3, H, W)`.
        pixels: Clean images, `(B, 3, H, W)` in [0, 1].
        loss: Climbed, `(B,)`.
        threat_model: Ball and box that hold the result.
        generators: One CPU generator per sample.
        positions: `(B,)`, where each sample stands in the caller's batch.
        batch_size: Most samples in one forward pass. A search may work on more at once: since a batch is made up anew
            of those that still stand at every step, batches stay full while samples leave.
        eot_samples: Forward and backward passes that a gradient is the mean of, above 1 for a model that draws lots
            (expectation over transformation, https://huggingface.co/papers/1707.07397).
    """

    forward: Forward
    pixels: Tensor
    loss: AttackLoss
    threat_model: ThreatModel
    generators: Sequence[torch.Generator]
    positions: Tensor
    batch_size: int | None = None
    eot_samples: int = 1

    def __getitem__(self, kept: Tensor) -> "Problem":
        """The same problem for the samples at the positions `kept`, a long tensor."""
        generators = [self.generators[position] for position in kept.tolist()]
        pixels, loss, positions = self.pixels[kept], self.loss[kept], self.positions[kept]
        return replace(self, pixels=pixels, loss=loss, generators=generators, positions=positions)

    def batches(self) -> tuple[Tensor, ...]:
        """Positions of all samples, at most `batch_size` at once."""
        positions = torch.arange(len(self.pixels), device=self.pixels.device)
        return torch.split(positions, self.batch_size or max(1, len(positions)))

    def start(self, random: bool) -> Tensor:
        """First iterate, `(B, 3, H, W)`: a random point of the threat model, or the clean images."""
        return self.threat_model.random_start(self.pixels, self.generators) if random else self.pixels.clone()

    def gradient(self, adversarial: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `input_gradient`, in batches and as a mean over `eot_samples`, for a search at its `step`.

        Raises:
            FloatingPointError: If the loss or the gradient of a sample is not finite; the step is named.
        """
        parts = [self._mean_gradient(adversarial[rows], self.loss[rows]) for rows in self.batches()]
        gradient, outputs, losses = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        finite = gradient.flatten(1).isfinite().all(dim=1) & losses.isfinite()
        self.require_finite(finite, f"the loss or its gradient is not finite at step {step}")
        return gradient, outputs, losses

    def require_finite(self, finite: Tensor, complaint: str) -> None:
        """Raise a FloatingPointError for samples that are not `finite`, `(B,)`: no comparison with them would hold."""
        if not finite.all():
            raise FloatingPointError(
                f"{complaint} for the samples at positions {self.positions[~finite].tolist()} of the batch; look at "
                "the model's outputs there, in float32"
            )

    def outputs(self, adversarial: Tensor) -> Tensor:
        """What `forward` gives for all samples, without gradient, in batches; averaged over `eot_samples`."""
        with torch.no_grad():
            draws = [
                torch.cat([self.forward(adversarial[rows]) for rows in self.batches()])
                for _ in range(self.eot_samples)
            ]
        return draws[0] if len(draws) == 1 else torch.stack(draws).mean(dim=0)

    def judge(self, adversarial: Tensor) -> tuple[Tensor, Tensor | None]:
        """Losses `(B,)` by fresh forward passes, and whether each sample is fooled and stays so when looked at again.

        The verdict is None for want of labels.
        """
        outputs = self.outputs(adversarial)
        fooled = self.loss.fooled(outputs)
        return self.loss(outputs), fooled if fooled is None else self.confirm(adversarial, fooled)

    def confirm(self, adversarial: Tensor, fooled: Tensor) -> Tensor:
        """Which of the samples that seem `fooled`, `(B,)`, are so by a fresh forward pass.

        A model that draws lots is fooled by chance sooner or later, and a sample that leaves then was not broken. For
        any other model this costs one forward pass of the few samples that are about to leave.
        """
        seeming = fooled.nonzero().flatten()
        if len(seeming):
            some = self[seeming]
            verdict = some.loss.fooled(some.outputs(adversarial[seeming]))
            fooled = fooled.clone()
            fooled[seeming] = verdict if verdict is not None else False
        return fooled

    def _mean_gradient(self, adversarial: Tensor, loss: AttackLoss) -> tuple[Tensor, Tensor, Tensor]:
        draws = [input_gradient(self.forward, adversarial, loss) for _ in range(self.eot_samples)]
        if len(draws) == 1:
            return draws[0]
        gradient, outputs, losses = (torch.stack(parts).mean(dim=0) for parts in zip(*draws, strict=True))
        return gradient, outputs, losses


class Attack(ABC):
    """A search for adversarial images; subclasses are frozen dataclasses of its parameters and define `search`.

    Attributes:
        paper: Where the search comes from.
        norms: Of the threat models that it can keep to.
    """

    paper: ClassVar[Paper]
    norms: ClassVar[tuple[Norm, ...]] = get_args(Norm)

    def __call__(
        self,
        forward: Forward,
        pixels: Tensor,
        loss: AttackLoss,
        threat_model: ThreatModel,
        generators: Sequence[torch.Generator] | None = None,
        *,
        batch_size: int | None = None,
        eot_samples: int = 1,
    ) -> Tensor:
        """Search the threat model for images of higher loss.

        A module given as `forward`, or whose method it is, is in eval mode meanwhile; its parameters, their `.grad`
        and all flags are afterwards as before. Whether the images fool a model is for the caller to judge.

        Args:
            forward: Differentiable function of pixels giving logits or embeddings.
            pixels: Clean images, `(B, 3, H, W)` in [0, 1], float32 or float64.
            loss: Climbed, one value per sample.
            threat_model: Ball and box that hold the result.
            generators: One CPU generator per sample, see `sample_generators`; by default fresh ones of seed 0 and the
                positions in the batch, with which every call, and so every batch, draws the same.
            batch_size: Most samples in one forward pass; all at once by default. Handed more samples than that, an
                attack refills its batches as samples fall.
            eot_samples: Passes that each gradient is averaged over, for a model whose forward is random.

        Returns:
            Adversarial images of the shape, type and device of `pixels`, detached.

        Raises:
            ValueError: If pixels, generators, forward or loss are not as above.
            FloatingPointError: If a loss or gradient is not finite.
        """
        _check_inputs(pixels, loss)
        generators = sample_generators(0, range(len(pixels))) if generators is None else generators
        if len(generators) != len(pixels):
            raise ValueError(f"one generator per sample is needed, got {len(generators)} for {len(pixels)} samples")
        for name, count in (("batch_size", 1 if batch_size is None else batch_size), ("eot_samples", eot_samples)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        # Inference tensors cannot take part in a gradient: leave that mode, and clone the pixels out of it.
        with torch.inference_mode(False), torch.no_grad(), eval_mode(forward):
            clean = pixels.detach().clone()
            positions = torch.arange(len(clean), device=clean.device)
            problem = Problem(forward, clean, loss, threat_model, generators, positions, batch_size, eot_samples)
            adversarial = self.search(problem)
            self._check_result(adversarial, clean, threat_model)
        return adversarial

    @property
    def short_name(self) -> str:
        """What records call the search, such as `pgd`."""
        return type(self).__name__.lower()

    @property
    @abstractmethod
    def gradient_passes(self) -> int:
        """Most forward-and-backward passes to the pixels that a search takes, for counting its cost."""

    def require_packages(self) -> None:  # noqa: B027 - a hook that most attacks leave empty
        """Refuse to begin without the optional packages that the search needs, if there are any.

        Raises:
            ImportError: If one is not installed.
        """

    @abstractmethod
    def search(self, problem: Problem) -> Tensor:
        """Find adversarial images for `problem`, `(B, 3, H, W)`; runs under `no_grad`, with the model in eval mode."""

    def _check_result(self, adversarial: Tensor, pixels: Tensor, threat_model: ThreatModel) -> None:
        """Stop an attack that left the ball or the box, beyond what rounding of each pixel allows."""
        if adversarial.shape != pixels.shape or adversarial.dtype != pixels.dtype:
            raise RuntimeError(f"{self!r} returned images of another shape or type than it was given")
        rounding = torch.finfo(pixels.dtype).eps * (1 if threat_model.norm == "linf" else pixels[0].numel() ** 0.5)
        allowed = threat_model.epsilon + rounding * max(1, threat_model.epsilon)
        distance = threat_model.distance(adversarial, pixels).max().item()
        if not (adversarial.min() >= 0 and adversarial.max() <= 1 and distance <= allowed):
            raise RuntimeError(f"{self!r} left the box [0, 1] or {threat_model}: it went {distance:.6g} far")


def input_gradient(forward: Forward, adversarial: Tensor, loss: AttackLoss) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of each sample's loss with respect to its own pixels, and to nothing else.

    The losses are summed, not averaged: a gradient must not depend on how many samples share the batch.

    Args:
        forward: Gives outputs `(B, ...)` of pixels.
        adversarial: `(B, 3, H, W)`.
        loss: Gives `(B,)` of the outputs.

    Returns:
        Gradient `(B, 3, H, W)`, outputs `(B, ...)` and losses `(B,)`, detached.

    Raises:
        ValueError: If the loss is not one value per sample, or does not depend on the pixels differentiably.
    """
    adversarial = adversarial.detach().requires_grad_()
    with torch.enable_grad():
        outputs = forward(adversarial)
        losses = loss(outputs)
        total = losses.sum()
    if losses.shape != adversarial.shape[:1]:
        raise ValueError(f"a loss must give one value per sample, ({len(adversarial)},), got {tuple(losses.shape)}")
    gradient = None
    if total.requires_grad:
        (gradient,) = torch.autograd.grad(total, adversarial, allow_unused=True)
    if gradient is None:
        raise ValueError("no gradient reaches the pixels: forward must be differentiable, without no_grad or detach")
    return gradient, outputs.detach(), losses.detach()


@contextmanager
def eval_mode(forward: Forward) -> Iterator[None]:
    """Put the module behind `forward` in eval mode; every submodule gets its own flag back, also after an error.

    Args:
        forward: A module, a bound method of one, or any other function, which is left alone.
    """
    owner = getattr(forward, "__self__", forward)
    modules = list(owner.modules()) if isinstance(owner, nn.Module) else []
    flags = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag


def sample_generators(seed: int, indices: Iterable[int]) -> list[torch.Generator]:
    """One CPU generator per sample, so that its random numbers never depend on the rest of the batch.

    Args:
        seed: Seed of the run.
        indices: Row of each sample in its data set; a tensor `(B,)` will do.

    Returns:
        Generators that depend on (seed, index) only.

    Example:
        >>> first, again = sample_generators(0, [7]), sample_generators(0, torch.tensor([3, 7]))
        >>> bool(torch.rand(1, generator=first[0]) == torch.rand(1, generator=again[1]))
        True
    """
    digests = [hashlib.blake2b(f"{seed}:{int(index)}".encode(), digest_size=8).digest() for index in indices]
    return [torch.Generator().manual_seed(int.from_bytes(digest, "big")) for digest in digests]


def _check_inputs(pixels: Tensor, loss: AttackLoss) -> None:
    """Refuse what would make an attack meaningless: other shapes or ranges, half precision, labels without a loss."""
    if isinstance(loss, Tensor):
        raise ValueError("a loss is needed, got a tensor; wrap labels: CrossEntropy(labels)")
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.numel():
        raise ValueError(f"pixels must be a batch of RGB images, (B, 3, H, W), got {tuple(pixels.shape)}")
    if pixels.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"pixels must be float32 or float64, got {pixels.dtype}: half precision cannot hold steps of 1/255; "
            "keep the pixels in float32 and let the model cast them"
        )
    low, high = pixels.aminmax()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"pixels must lie in [0, 1], got {low:.4g} to {high:.4g}: attack images as they are before normalisation"
        )
