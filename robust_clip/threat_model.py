"""What the attacker may do: a norm, a radius, and the geometry that follows from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]


def parse_size(size: float | str) -> float:
    """Read an attack size in pixel units, as people write it.

    Args:
        size: A number, or a string holding a number or a fraction such as `"4/255"`.

    Returns:
        The size, finite and not negative.

    Raises:
        ValueError: If `size` is not a number or a fraction, or is negative or not finite.

    Example:
        >>> parse_size("4/255") == 4 / 255
        True
        >>> parse_size(0)
        0.0
    """
    numerator, slash, denominator = str(size).partition("/")
    try:
        value = float(numerator) / float(denominator if slash else 1)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if isinstance(size, bool) or not 0 <= value < math.inf:
        raise ValueError(f"a size must be a number >= 0 or a fraction such as '4/255', got {size!r}")
    return value


def format_size(size: float) -> str:
    """Write an attack size as people read it: a short decimal if it is one, else over 255.

    Args:
        size: Size in pixel units.

    Returns:
        Text that `parse_size` reads; sizes that are neither are rounded to six digits.

    Example:
        >>> format_size(4 / 255), format_size(0.5 / 255), format_size(0.5), format_size(2**0.5)
        ('4/255', '0.5/255', '0.5', '1.41421')
    """
    decimal, numerator = f"{size:g}", f"{size * 255:.4g}"
    over_255 = float(decimal) != size and math.isclose(float(numerator), size * 255, rel_tol=1e-9)
    return f"{numerator}/255" if over_255 else decimal


@dataclass(frozen=True, init=False)
class ThreatModel:
    """The set of images an attacker may show instead of the clean one: a ball around it, cut by the box [0, 1].

    Args:
        norm: `"linf"` (largest change of any pixel) or `"l2"` (Euclidean norm of the whole change).
        epsilon: Radius in pixel units, a number or text such as `"4/255"`; 0 allows the clean image only.

    Raises:
        ValueError: If the norm is unknown, or epsilon is negative, not finite, or above 1 for linf.

    Example:
        >>> threat_model = ThreatModel("linf", "4/255")
        >>> print(threat_model)
        linf 4/255
        >>> threat_model.epsilon == 4 / 255
        True
    """

    norm: Norm
    epsilon: float

    def __init__(self, norm: Norm, epsilon: float | str) -> None:
        """Written out so that `epsilon` is given as text or number and always read as a number."""
        if norm not in get_args(Norm):
            raise ValueError(f"unknown norm {norm!r}, known: {', '.join(get_args(Norm))}")
        radius = parse_size(epsilon)
        if norm == "linf" and radius > 1:
            raise ValueError(
                f"epsilon is in pixel units, at most 1 for linf, got {epsilon!r}: did you mean {radius:g}/255?"
            )
        object.__setattr__(self, "norm", norm)
        object.__setattr__(self, "epsilon", radius)

    def __str__(self) -> str:
        """Name as written in tables: `linf 4/255`."""
        return f"{self.norm} {format_size(self.epsilon)}"

    def random_start(self, pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw a point of the ball and the box for each sample.

        linf: uniform in the cube. l2: a uniform direction and a uniform radius, as the TeCoA family of code does.

        Args:
            pixels: Clean images, `(B, 3, H, W)` in [0, 1].
            generators: One CPU generator per sample; the draw is the same on every device and in every batch.

        Returns:
            Images of the shape, type and device of `pixels`.
        """
        noise = torch.stack([self._noise(pixels.shape[1:], generator) for generator in generators])
        return self.project(pixels + noise.to(pixels), pixels)

    def step(self, gradient: Tensor, step_size: float) -> Tensor:
        """Displacement of length `step_size` that climbs fastest along `gradient`.

        Args:
            gradient: `(B, 3, H, W)`; its scale does not matter.
            step_size: Length in this norm, in pixel units.

        Returns:
            `(B, 3, H, W)`; zero where the gradient of a sample is zero.

        Example:
            >>> ThreatModel("linf", 0.1).step(torch.tensor([[[[-2.0, 0.0, 3.0]]]]), 0.5).flatten().tolist()
            [-0.5, 0.0, 0.5]
            >>> ThreatModel("l2", 0.1).step(torch.tensor([[[[3e-30, 4e-30]]]]), 1.0).flatten().tolist()
            [0.6000000238418579, 0.800000011920929]
        """
        if self.norm == "linf":
            return step_size * gradient.sign()
        # Divided by the largest entry first: the squares of a saturated loss's gradient underflow in float32.
        largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
        scaled = gradient / largest
        return step_size * scaled / _l2_norm(scaled).clamp_min(1)

    def project(self, adversarial: Tensor, pixels: Tensor) -> Tensor:
        """Nearest point, in Euclidean distance, that lies both in the ball around `pixels` and in the box.

        For l2 this is not the ball's projection clipped to the box, which would end strictly inside the ball.

        Args:
            adversarial: Any images, `(B, 3, H, W)`.
            pixels: Clean images, `(B, 3, H, W)` in [0, 1].

        Returns:
            `(B, 3, H, W)`, inside up to rounding.

        Example:
            >>> pixels, wanted = torch.tensor([[[[1.0, 0.5]]]]), torch.tensor([[[[4.0, 4.5]]]])
            >>> ThreatModel("l2", 0.25).project(wanted, pixels).flatten().tolist()
            [1.0, 0.75]
        """
        if self.norm == "linf":
            return adversarial.clamp(pixels - self.epsilon, pixels + self.epsilon).clamp(0, 1)
        change = adversarial - pixels
        room = torch.where(change > 0, 1 - pixels, pixels)
        return (pixels + change.sign() * self._shrink(change.abs(), room)).clamp(0, 1)

    def distance(self, adversarial: Tensor, pixels: Tensor) -> Tensor:
        """Distance of each image from its clean one.

        Args:
            adversarial: `(B, 3, H, W)`.
            pixels: `(B, 3, H, W)`.

        Returns:
            `(B,)` in this norm, in pixel units.
        """
        change = adversarial - pixels
        return change.abs().amax(dim=(1, 2, 3)) if self.norm == "linf" else _l2_norm(change).flatten()

    def _noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """One sample's random change, `shape`, on the CPU."""
        if self.norm == "linf":
            return self.epsilon * (2 * torch.rand(shape, generator=generator) - 1)
        direction = torch.randn(1, *shape, generator=generator)
        radius = self.epsilon * torch.rand(1, generator=generator)
        return (radius * direction / _l2_norm(direction)).squeeze(0)

    def _shrink(self, change: Tensor, room: Tensor) -> Tensor:
        """Nearest to `change` among the `y` with 0 <= y <= room and |y|_2 <= epsilon; all are `(B, 3, H, W)`, >= 0.

        By the optimality conditions y = min(scale * change, room), with scale 1 if that is in the ball. Else the
        scale is found from below: with `full` the entries at their room, solving for the others can only raise the
        scale, which can only fill more entries, until none is added.
        """
        outside = _l2_norm(change.minimum(room)) > self.epsilon
        full = torch.zeros_like(change, dtype=torch.bool)
        while True:
            left = (self.epsilon**2 - _l2_norm(room * full).square()).clamp_min(0).sqrt()
            free = _l2_norm(change * ~full).clamp_min(torch.finfo(change.dtype).tiny)
            shrunk = (change * torch.where(outside, (left / free).clamp_max(1), 1)).minimum(room)
            added = outside & (shrunk >= room) & ~full
            if not added.any():
                return shrunk
            full |= added


def _l2_norm(batch: Tensor) -> Tensor:
    """Euclidean norm of each sample, `(B, 1, 1, 1)`."""
    # Sample by sample: a reduction over a whole batch may sum in another order when the batch is of another size.
    return torch.stack([torch.linalg.vector_norm(sample) for sample in batch]).reshape(-1, 1, 1, 1)


def require_radius(threat_model: ThreatModel) -> None:
    """Refuse to attack where nothing may change.

    Raises:
        ValueError: If epsilon is 0.
    """
    if not threat_model.epsilon:
        raise ValueError(f"{threat_model} leaves every image as it is; give a radius above 0, such as 4/255")
