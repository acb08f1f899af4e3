"""What an attack climbs: losses of the outputs, one value per sample, computed in float32."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

_TIE = 1e-12  # as AutoAttack keeps the ratio finite where the logits that it divides by are equal


class AttackLoss(ABC):
    """A loss that an attack climbs, holding what it needs to know about each sample of the batch."""

    @abstractmethod
    def __call__(self, outputs: Tensor) -> Tensor:
        """Loss of each sample.

        Args:
            outputs: What `forward` gives, `(B, ...)`: logits or embeddings.

        Returns:
            `(B,)`, float32, never averaged.
        """

    def __getitem__(self, kept: Tensor) -> Self:
        """The same loss for some of the samples: a dataclass whose tensors have one row for each sample.

        Args:
            kept: Positions or a mask, on the device of the loss.
        """
        loss: Any = self
        values = {field.name: getattr(loss, field.name) for field in fields(loss)}
        rows = {name: value[kept] for name, value in values.items() if isinstance(value, Tensor)}
        chosen: Self = replace(loss, **rows)
        return chosen

    def fooled(self, outputs: Tensor) -> Tensor | None:
        """Whether each sample is misclassified.

        Args:
            outputs: Logits, `(B, C)`.

        Returns:
            `(B,)`, boolean; None for a loss that has no labels.
        """
        return None

    def towards(self, targets: Tensor) -> "AttackLoss":
        """The targeted form: what to climb so that each sample is taken for its target.

        Args:
            targets: `(B,)`, integer classes, other than the true ones.

        Raises:
            ValueError: If the loss has no targeted form.
        """
        raise ValueError(f"{type(self).__name__} has no targeted form; use dlr or cross_entropy")


def are_probabilities(outputs: Tensor) -> bool:
    """Whether outputs `(B, C)` came out of a softmax, through which attacks have next to no gradient.

    >>> logits = torch.tensor([[3.0, -1.0], [0.0, 2.0]])
    >>> are_probabilities(logits), are_probabilities(logits.softmax(dim=1))
    (False, True)
    """
    sums = outputs.sum(dim=1)
    return outputs.shape[1] > 1 and bool(outputs.min() >= 0) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4)


@dataclass(frozen=True, eq=False)
class LabelledLoss(AttackLoss):
    """A loss on logits that knows the true classes, and so when a sample is misclassified.

    Args:
        labels: `(B,)`, integer classes.
    """

    labels: Tensor

    def __post_init__(self) -> None:
        """Refuse labels that are no classes."""
        if self.labels.dtype.is_floating_point or self.labels.dtype == torch.bool:
            raise ValueError(f"labels must be integer classes, got {self.labels.dtype}; use labels.long()")

    def fooled(self, outputs: Tensor) -> Tensor:
        """Whether the largest of the logits `(B, C)` is not the label's, `(B,)`."""
        return outputs.argmax(dim=1) != self.labels


@dataclass(frozen=True, eq=False)
class CrossEntropy(LabelledLoss):
    """Cross-entropy of the true label.

    Args:
        labels: `(B,)`, integer classes.

    Example:
        >>> loss = CrossEntropy(torch.tensor([0, 1]))
        >>> logits = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> [round(value, 4) for value in loss(logits).tolist()], loss.fooled(logits).tolist()
        ([0.6931, 1.3133], [False, True])
    """

    def __call__(self, outputs: Tensor) -> Tensor:
        """Cross-entropy of logits `(B, C)`, `(B,)`."""
        return functional.cross_entropy(outputs.float(), self.labels, reduction="none")

    def towards(self, targets: Tensor) -> "TargetedCrossEntropy":
        """Minus the cross-entropy of `targets` `(B,)`."""
        _check_targets(targets, self.labels)
        return TargetedCrossEntropy(self.labels, targets)


@dataclass(frozen=True, eq=False)
class TargetedCrossEntropy(CrossEntropy):
    """Minus the cross-entropy of a target class; a sample that is taken for any wrong class is fooled.

    Args:
        labels: `(B,)`, integer classes.
        targets: `(B,)`, the class that each sample is driven to.

    Example:
        >>> loss = CrossEntropy(torch.tensor([0])).towards(torch.tensor([1]))
        >>> round(loss(torch.tensor([[1.0, 0.0]])).item(), 4)
        -1.3133
    """

    targets: Tensor

    def __call__(self, outputs: Tensor) -> Tensor:
        """Log-probability of the target from logits `(B, C)`, `(B,)`."""
        return -functional.cross_entropy(outputs.float(), self.targets, reduction="none")


@dataclass(frozen=True, eq=False)
class Margin(LabelledLoss):
    """The loss that papers on robust CLIP call CW: `-relu(z_y - max_{j != y} z_j + confidence)`.

    It takes the logit margin of Carlini and Wagner (https://huggingface.co/papers/1608.04644, f_6 in Section V-A) and
    climbs it by PGD under a fixed epsilon; their attack, which looks for the smallest perturbation, is not run.

    Args:
        labels: `(B,)`, integer classes.
        confidence: How far, in logits, another class is pushed above the label before the loss is flat.

    Example:
        >>> Margin(torch.tensor([0, 0]), confidence=1.0)(torch.tensor([[3.0, 1.0], [0.0, 9.0]])).tolist()
        [-3.0, -0.0]
    """

    confidence: float = 50.0

    def __call__(self, outputs: Tensor) -> Tensor:
        """Negative clipped margin of logits `(B, C)`, `(B,)`; C is at least 2."""
        if outputs.shape[1] < 2:
            raise ValueError("the margin loss compares classes, so it needs at least 2 of them, got 1")
        logits, label = outputs.float(), self.labels.unsqueeze(1)
        others = logits.scatter(1, label, -torch.inf).amax(dim=1)
        return -functional.relu(logits.gather(1, label).squeeze(1) - others + self.confidence)


@dataclass(frozen=True, eq=False)
class DLR(LabelledLoss):
    """Difference of logits ratio: `-(z_y - max_{j != y} z_j) / (z_(1) - z_(3))`, z_(k) being the k-th largest logit.

    https://huggingface.co/papers/2003.01690, Eq. 6. Neither a shift nor a positive scale of the logits changes it, so
    that a small temperature cannot starve its gradient. It is above 0 where a sample is misclassified.

    Args:
        labels: `(B,)`, integer classes.

    Example:
        >>> logits = torch.tensor([[4.0, 3.0, 1.0, 0.0]])
        >>> DLR(torch.tensor([0]))(logits).item(), DLR(torch.tensor([0]))(10 * logits + 7).item()
        (-0.3333333432674408, -0.3333333432674408)
    """

    def __call__(self, outputs: Tensor) -> Tensor:
        """Ratio of logits `(B, C)`, `(B,)`; C is at least 3."""
        if outputs.shape[1] < 3:
            raise ValueError(
                f"the DLR loss compares three logits, so it needs at least 3 classes, got {outputs.shape[1]}; "
                "use cross_entropy"
            )
        logits, label = outputs.float(), self.labels.unsqueeze(1)
        others = logits.scatter(1, label, -torch.inf).amax(dim=1)
        first, _, third = logits.topk(3, dim=1).values.unbind(dim=1)
        return (others - logits.gather(1, label).squeeze(1)) / (first - third + _TIE)

    def towards(self, targets: Tensor) -> "TargetedDLR":
        """The ratio with `targets` `(B,)` in place of the strongest wrong class."""
        _check_targets(targets, self.labels)
        return TargetedDLR(self.labels, targets)


@dataclass(frozen=True, eq=False)
class TargetedDLR(DLR):
    """Targeted difference of logits ratio: `-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)`.

    https://huggingface.co/papers/2003.01690, Eq. 7. A sample that is taken for any wrong class is fooled.

    Args:
        labels: `(B,)`, integer classes.
        targets: `(B,)`, the class t that each sample is driven to.

    Example:
        >>> DLR(torch.tensor([0])).towards(torch.tensor([2]))(torch.tensor([[4.0, 3.0, 1.0, 0.0]])).item()
        -0.8571428656578064
    """

    targets: Tensor

    def __call__(self, outputs: Tensor) -> Tensor:
        """Ratio of logits `(B, C)`, `(B,)`; C is at least 4."""
        if outputs.shape[1] < 4:
            raise ValueError(
                f"the targeted DLR loss compares four logits, so it needs at least 4 classes, got {outputs.shape[1]}; "
                "use an untargeted loss, or cross_entropy with fewer targets than classes"
            )
        logits = outputs.float()
        label, target = (logits.gather(1, index.unsqueeze(1)).squeeze(1) for index in (self.labels, self.targets))
        first, _, third, fourth = logits.topk(4, dim=1).values.unbind(dim=1)
        return (target - label) / (first - (third + fourth) / 2 + _TIE)


def labels_of(loss: AttackLoss, attack: str) -> Tensor:
    """True classes that a loss was made with, `(B,)`.

    Args:
        loss: Of the samples.
        attack: Name of who asks, for the error.

    Raises:
        ValueError: If the loss has none.
    """
    labels = getattr(loss, "labels", None)
    if not isinstance(labels, Tensor):
        raise ValueError(
            f"{attack} changes predicted classes, so it needs a loss with labels, such as cross_entropy or margin; "
            f"got {type(loss).__name__}"
        )
    return labels


LOSSES: dict[str, type[AttackLoss]] = {
    "cross_entropy": CrossEntropy,
    "margin": Margin,
    "dlr": DLR,
}


def _check_targets(targets: Tensor, labels: Tensor) -> None:
    """Refuse targets that no attack could mean: not one for each sample, or the true class."""
    if targets.shape != labels.shape:
        shapes = f"{tuple(targets.shape)} for {tuple(labels.shape)}"
        raise ValueError(f"targets must be one class for each label, got {shapes}")
    if (targets == labels).any():
        positions = (targets == labels).nonzero().flatten().tolist()
        raise ValueError(f"a target must be another class than the label; they are the same at positions {positions}")
