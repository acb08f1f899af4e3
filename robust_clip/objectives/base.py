"""What an objective is: one paper's training loss as named terms, and what its inner attack climbs."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from robust_clip.attacks.losses import AttackLoss, CrossEntropy
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier
from robust_clip.paper import Paper


@dataclass
class Batch:
    """What one training step sees.

    Attributes:
        pixels: `(B, 3, H, W)` clean images in [0, 1].
        adversarial: The same images attacked; `pixels` itself where the recipe has no attack.
        labels: `(B,)` class of each image, or -1.
        class_embeds: `(C, D)` unit-norm class embeddings; without gradient; `None` for data without classes.
        input_ids: `(U, L)` tokens of the distinct captions in the batch, or `None`.
        attention_mask: `(U, L)`.
        text_index: `(B,)` row of `input_ids` that is each image's caption.
    """

    pixels: Tensor
    adversarial: Tensor
    labels: Tensor
    class_embeds: Tensor | None = None
    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    text_index: Tensor | None = None

    def __getitem__(self, kept: Tensor) -> "Batch":
        """The samples `kept`; what they share is kept whole."""
        shared = {"class_embeds", "input_ids", "attention_mask"}
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in shared}
        return replace(self, **{name: value[kept] for name, value in own.items() if value is not None})


class Objective(ABC):
    """A paper's training loss. Subclasses are frozen dataclasses of its hyper-parameters and hold no model.

    Attributes:
        paper: Where it comes from.
        needs_classes: Whether a batch must carry labels and class embeddings.
        needs_captions: Whether a batch must carry captions.
        needs_attack: Whether `Batch.adversarial` must differ from `Batch.pixels`.
        needs_teacher: Whether it compares with the frozen original.
        teacher_passes: Forward passes of the teacher in one step, for the floor that the benchmark prints.
        trains_text: Whether its gradient reaches the text tower.
    """

    paper: ClassVar[Paper]
    needs_classes: ClassVar[bool] = True
    needs_captions: ClassVar[bool] = False
    needs_attack: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False
    teacher_passes: ClassVar[int] = 0
    trains_text: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """The loss on a batch.

        Args:
            student: The model that learns.
            teacher: The frozen original, or `None` where `needs_teacher` is false.
            batch: What this step sees.

        Returns:
            Named scalar terms, already weighted; their sum is the loss.

        Raises:
            ValueError: If the batch lacks what the objective needs.
        """

    def inner_problem(
        self, student: nn.Module, teacher: RobustCLIPModel | None, batch: Batch
    ) -> tuple[Callable[[Tensor], Tensor], AttackLoss]:
        """The function that the training attack differentiates, and the loss on its outputs that it climbs.

        By default class-prompt cross-entropy, the inner maximisation of TeCoA and its successors.

        Args:
            student: The model that learns, or a distributed wrapper around it.
            teacher: The frozen original, where the objective needs one.
            batch: What this step sees; its class embeddings get no gradient from the attack.

        Raises:
            ValueError: If the batch has no class embeddings.
        """
        if batch.class_embeds is None:
            raise ValueError(f"The attack of {type(self).__name__} climbs class-prompt cross-entropy; give classes.")
        return ZeroShotClassifier(student, batch.class_embeds.detach()), CrossEntropy(batch.labels)


def class_embeds_of(batch: Batch, objective: str) -> Tensor:
    """The batch's class embeddings, or the reason why the objective cannot do without them."""
    if batch.class_embeds is None:
        raise ValueError(f"{objective} needs class labels and class names; this data set has neither.")
    return batch.class_embeds


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
        if self.objective.needs_captions:
            raise ValueError(
                f"{type(self.objective).__name__} contrasts the captions of a batch, so no sample has a loss of its "
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
