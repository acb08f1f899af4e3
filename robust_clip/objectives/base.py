"""What an objective is: one paper's training loss as named terms, and what its inner attack climbs."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

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
