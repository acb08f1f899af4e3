"""Margins that grow with the distance between the classes' texts, and cross-entropy with them: TIMA's image loss."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from robust_clip.attacks.losses import LabelledLoss

from .base import check_choice, check_weights

Kind = Literal["tam", "asam"]
Form = Literal["additive", "angular"]

# Unit embeddings whose squared distance is below this are the same but for float32's rounding.
SAME = 1e-6


@dataclass(frozen=True)
class TextMargin:
    """The margin by which the true class must win, larger against classes of more distant texts. All of it is ours.

    `m_yj = size (offset + (1 - offset) d_yj / max_k d_yk)` for j != y, without gradient; 0 where `d_yj` is 0, since no
    image can tell two classes of one prompt apart.

    Args:
        size: Largest margin, in cosine (`additive`) or radians (`angular`); 0.05 is 5 logits at CLIP's temperature.
        kind: `tam`, the text-distance adaptive margin of the first version: d is the Euclidean distance of the class
            embeddings as they are now. `asam`, the adaptive semantic-aware margin of the AAAI version, whose abstract
            tells that logit margins and semantic similarity are negatively correlated: d is one minus the cosine of
            the frozen original's class embeddings.
        form: `additive` raises each wrong class's cosine by the margin, `angular` lowers its angle by it.
        offset: Share of the margin, from 0 to 1, that every wrong class gets whatever its distance. The AAAI version
            tells of a stable offset of logit margins between small and large perturbations.
        in_attack: Whether the training attack climbs the loss with margins instead of plain cross-entropy.
        couple: Whether the loss with margins also moves the text tower, whose embeddings it otherwise takes as given.

    Raises:
        ValueError: On a negative size, an offset outside [0, 1], or an unknown kind or form.
    """

    size: float = 0.05
    kind: Kind = "tam"
    form: Form = "additive"
    offset: float = 0.0
    in_attack: bool = False
    couple: bool = False

    def __post_init__(self) -> None:
        check_weights(size=self.size)
        if not 0 <= self.offset <= 1:
            raise ValueError(f"offset is the share of the margin that every class gets, 0 to 1, got {self.offset}.")
        check_choice("kind", self.kind, get_args(Kind))
        check_choice("form", self.form, get_args(Form))

    @classmethod
    def of(cls, given: Any) -> Self:
        """From the mapping of its fields that a recipe gives; what is one already is returned as it is.

        Raises:
            ValueError: If it is neither, or has an unknown field, and as the constructor.
        """
        if isinstance(given, cls):
            return given
        known = [field.name for field in fields(cls)]
        if not isinstance(given, Mapping):
            raise ValueError(f"margin is a mapping of {', '.join(known)}, got {given!r}; set margin.size.")
        for name in given:
            check_choice("a field of margin", name, known)
        return cls(**given)


@dataclass(frozen=True, eq=False)
class MarginCrossEntropy(LabelledLoss):
    """Cross-entropy of the true label, which must win by margins. Whether a sample is fooled knows of no margin.

    Args:
        labels: `(B,)`, integer classes.
        margins: `(B, C)`, 0 at the label.
        logit_scale: What the logits are cosines times.
        form: As in `TextMargin`.

    Example:
        >>> loss = MarginCrossEntropy(torch.tensor([0]), torch.tensor([[0.0, 0.5]]), 2.0, "additive")
        >>> logits = torch.tensor([[1.0, 0.0]])
        >>> round(loss(logits).item(), 4), loss.fooled(logits).item()
        (0.6931, False)
    """

    margins: Tensor
    logit_scale: float
    form: Form

    def __call__(self, outputs: Tensor) -> Tensor:
        """Cross-entropy of logits `(B, C)` with margins, `(B,)`."""
        logits = with_margins(outputs.float(), self.margins, self.logit_scale, self.form)
        return F.cross_entropy(logits, self.labels, reduction="none")


def relative_margins(embeds: Tensor, kind: Kind = "tam", offset: float = 0.0) -> Tensor:
    """Margins `(C, C)` of class y against class j in [0, 1], without gradient; see `TextMargin`.

    Args:
        embeds: `(C, D)` class embeddings, of any length.
        kind: `tam`, by Euclidean distance of unit embeddings, or `asam`, by one minus their cosine.
        offset: Share that every class at a distance gets.

    >>> embeds = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> relative_margins(embeds)[0], relative_margins(embeds, "asam")[0], relative_margins(embeds, "asam", 0.5)[0]
    (tensor([0.0000, 0.7071, 1.0000]), tensor([0.0000, 0.5000, 1.0000]), tensor([0.0000, 0.7500, 1.0000]))
    """
    squared = squared_distances(embeds.detach())
    # One minus the cosine is half the squared distance, and halves cancel below.
    distances = torch.where(squared > SAME, squared if kind == "asam" else squared.sqrt(), 0)
    relative = distances / distances.amax(dim=1, keepdim=True).clamp_min(SAME)
    return torch.where(relative > 0, offset + (1 - offset) * relative, 0)


def with_margins(logits: Tensor, margins: Tensor, logit_scale: Tensor | float, form: Form = "additive") -> Tensor:
    """Logits `(B, C)` of which those with a margin are raised by it.

    Args:
        logits: `(B, C)` cosines times `logit_scale`.
        margins: `(B, C)`, not negative, in cosine (`additive`) or radians (`angular`).
        logit_scale: As above.
        form: As in `TextMargin`. An angle never falls below 0.

    >>> logits, margins = torch.tensor([[10.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    >>> with_margins(logits, margins, 10.0), with_margins(logits, margins, 10.0, "angular")
    (tensor([[10.,  5.]]), tensor([[10.0000,  4.7943]]))
    """
    if form == "additive":
        return logits + logit_scale * margins
    # The slope of arccos is infinite at both ends.
    angles = (logits / logit_scale).clamp(-1 + SAME, 1 - SAME).arccos()
    return torch.where(margins > 0, logit_scale * (angles - margins).clamp_min(0).cos(), logits)


def squared_distances(embeds: Tensor) -> Tensor:
    """Squared Euclidean distances `(C, C)` between unit embeddings, given `(C, D)` of any length, in fp32.

    >>> squared_distances(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    tensor([[0., 2.],
            [2., 0.]])
    """
    return (2 - 2 * cosines(embeds)).clamp_min(0)


def cosines(embeds: Tensor) -> Tensor:
    """Cosines `(C, C)` between embeddings `(C, D)`, in fp32.

    >>> cosines(torch.tensor([[2.0, 0.0], [3.0, 4.0]]))
    tensor([[1.0000, 0.6000],
            [0.6000, 1.0000]])
    """
    unit = F.normalize(embeds.float(), dim=-1)
    with torch.autocast(embeds.device.type, enabled=False):
        return unit @ unit.T
