"""Attacks that know of a defence: the objective's own training loss as what an attack climbs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from robust_clip.attacks.losses import AttackLoss
from robust_clip.models import RobustCLIPModel

from .base import Batch, Objective


def adaptive_problem(
    objective: Objective, student: nn.Module, teacher: RobustCLIPModel | None, batch: Batch
) -> tuple[Callable[[Tensor], Tensor], AttackLoss]:
    """What an attack differentiates and climbs that is adapted to a defence: the objective's whole training loss.

    Args:
        objective: Whose loss it is.
        student: The model that is attacked.
        teacher: The frozen original, where the objective needs one.
        batch: Clean images, labels and class embeddings.
    """
    return _Pixels(student), ObjectiveLoss(objective, student, teacher, batch)


class _Pixels(nn.Module):
    """Hands pixels on to `ObjectiveLoss`, and holds the model for attacks to put into eval mode."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels


@dataclass(frozen=True, eq=False)
class ObjectiveLoss(AttackLoss):
    """The whole training loss, every term of it, as what an attack on the objective's own defence climbs.

    A defence is measured by attacks that know of it (Tramer et al., https://huggingface.co/papers/2002.08347,
    Section 2). The outputs that it takes are the adversarial pixels themselves. Each sample is a batch of its own, so
    that a search sees the loss of each: an objective that compares the samples of a batch cannot be climbed so.

    Args:
        objective: Whose terms are summed.
        student: The model that is attacked.
        teacher: The frozen original, where the objective needs one.
        batch: Clean images, labels and class embeddings.

    Raises:
        ValueError: If the objective takes captions, which it contrasts within the batch.
    """

    objective: Objective
    student: Any
    teacher: RobustCLIPModel | None
    batch: Batch

    def __post_init__(self) -> None:
        """Refuse an objective that has no loss of a single sample."""
        if self.objective.needs_captions or self.objective.compares_samples:
            raise ValueError(
                f"{type(self.objective).__name__} compares the samples of a batch, so none has a loss of its "
                "own to climb; take another attack loss"
            )

    def __call__(self, outputs: Tensor) -> Tensor:
        """Loss of each sample on adversarial pixels `(B, 3, H, W)`, `(B,)`."""
        return torch.stack([self._loss_of(row, outputs) for row in torch.arange(len(outputs)).split(1)])

    def _loss_of(self, row: Tensor, outputs: Tensor) -> Tensor:
        batch = replace(self.batch[row.to(outputs.device)], adversarial=outputs[row])
        terms = self.objective(self.student, self.teacher, batch)
        return torch.stack([term.float() for term in terms.values()]).sum()

    def __getitem__(self, kept: Tensor) -> Self:
        """The same loss for the samples `kept`."""
        return replace(self, batch=self.batch[kept])
