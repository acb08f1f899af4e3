"""What an attack climbs: losses of the outputs, one value per sample, computed in float32."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional


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

    @abstractmethod
    def __getitem__(self, kept: Tensor) -> Self:
        """The same loss for some of the samples.

        Args:
            kept: Positions or a mask, on the device of the loss.
        """

    def fooled(self, outputs: Tensor) -> Tensor | None:
        """Whether each sample is misclassified.

        Args:
            outputs: Logits, `(B, C)`.

        Returns:
            `(B,)`, boolean; None for a loss that has no labels.
        """
        return None


@dataclass(frozen=True, eq=False)
class CrossEntropy(AttackLoss):
    """Cross-entropy of the true label.

    Args:
        labels: `(B,)`, integer classes.

    Example:
        >>> loss = CrossEntropy(torch.tensor([0, 1]))
        >>> logits = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> [round(value, 4) for value in loss(logits).tolist()], loss.fooled(logits).tolist()
        ([0.6931, 1.3133], [False, True])
    """

    labels: Tensor

    def __call__(self, outputs: Tensor) -> Tensor:
        """Cross-entropy of logits `(B, C)`, `(B,)`."""
        return functional.cross_entropy(outputs.float(), self.labels, reduction="none")

    def __getitem__(self, kept: Tensor) -> Self:
        """The same loss for the samples `kept`."""
        return replace(self, labels=self.labels[kept])

    def fooled(self, outputs: Tensor) -> Tensor:
        """Whether the largest of the logits `(B, C)` is not the label's, `(B,)`."""
        return outputs.argmax(dim=1) != self.labels


@dataclass(frozen=True, eq=False)
class Margin(AttackLoss):
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

    labels: Tensor
    confidence: float = 50.0

    def __call__(self, outputs: Tensor) -> Tensor:
        """Negative clipped margin of logits `(B, C)`, `(B,)`; C is at least 2."""
        if outputs.shape[1] < 2:
            raise ValueError("the margin loss compares classes, so it needs at least 2 of them, got 1")
        logits, label = outputs.float(), self.labels.unsqueeze(1)
        others = logits.scatter(1, label, -torch.inf).amax(dim=1)
        return -functional.relu(logits.gather(1, label).squeeze(1) - others + self.confidence)

    def __getitem__(self, kept: Tensor) -> Self:
        """The same loss for the samples `kept`."""
        return replace(self, labels=self.labels[kept])

    def fooled(self, outputs: Tensor) -> Tensor:
        """Whether the largest of the logits `(B, C)` is not the label's, `(B,)`."""
        return outputs.argmax(dim=1) != self.labels


@dataclass(frozen=True, eq=False)
class EmbeddingDistance(AttackLoss):
    """Squared Euclidean distance from reference embeddings, the inner loss of FARE.

    See https://huggingface.co/papers/2402.12336. Its gradient is zero where the outputs equal the reference, so an
    attack on the model that gave the reference needs a random start.

    Args:
        reference: `(B, ...)`, embeddings of the clean images, usually the teacher's.

    Example:
        >>> EmbeddingDistance(torch.zeros(1, 2))(torch.tensor([[3.0, 4.0]])).tolist()
        [25.0]
    """

    reference: Tensor

    def __call__(self, outputs: Tensor) -> Tensor:
        """Squared distance of embeddings `(B, ...)`, `(B,)`."""
        if outputs.shape != self.reference.shape:
            shapes = f"{tuple(outputs.shape)} and {tuple(self.reference.shape)}"
            raise ValueError(f"outputs and reference must have the same shape, got {shapes}")
        return (outputs.float() - self.reference.float()).square().flatten(1).sum(dim=1)

    def __getitem__(self, kept: Tensor) -> Self:
        """The same loss for the samples `kept`."""
        return replace(self, reference=self.reference[kept])


LOSSES: dict[str, type[AttackLoss]] = {
    "cross_entropy": CrossEntropy,
    "margin": Margin,
    "embedding_distance": EmbeddingDistance,
}
