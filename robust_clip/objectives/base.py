"""What an objective is: one paper's training loss as named terms, and what its inner attack climbs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from robust_clip.attacks.losses import AttackLoss, CrossEntropy
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier, pool_templates
from robust_clip.paper import Paper

# What an attack on texts climbs: `(N,)` of features `(N, D)` and the row `(N,)` of the caption that each was made of.
TextScore = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Batch:
    """What one training step sees.

    Attributes:
        pixels: `(B, 3, H, W)` clean images in [0, 1].
        adversarial: The same images attacked; `pixels` itself where the recipe has no attack.
        labels: `(B,)` class of each image, or -1.
        class_embeds: `(C, D)` unit-norm class embeddings of the student as it is now, without gradient; `None` for
            data without classes.
        original_class_embeds: `(C, D)` those of the frozen original; the same where the text tower is frozen.
        other_class_embeds: `(C, D)` those of the objective's `other_template`, by the frozen original.
        learning_class_embeds: `class_embeds` with their gradient to the student's text tower, for objectives that
            train class prompts; otherwise `None`.
        prompt_ids: `(C * T, L)` tokens of the prompts of all classes, class by class under T templates, for the same.
        prompt_mask: `(C * T, L)`.
        input_ids: `(U, L)` tokens of the distinct captions in the batch, or `None`.
        attention_mask: `(U, L)`.
        text_index: `(B,)` row of `input_ids` that is each image's caption.
        attacked_ids: `(U, L)` tokens of those captions attacked, for objectives that need it.
        attacked_mask: `(U, L)`.
        teacher_features: `(B, D)` see `clean_teacher_features`.
        teacher_text_features: `(U, D)` the teacher's un-normalised features of the clean captions.
    """

    pixels: Tensor
    adversarial: Tensor
    labels: Tensor
    class_embeds: Tensor | None = None
    original_class_embeds: Tensor | None = None
    other_class_embeds: Tensor | None = None
    learning_class_embeds: Tensor | None = None
    prompt_ids: Tensor | None = None
    prompt_mask: Tensor | None = None
    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    text_index: Tensor | None = None
    attacked_ids: Tensor | None = None
    attacked_mask: Tensor | None = None
    teacher_features: Tensor | None = None
    teacher_text_features: Tensor | None = None

    def __getitem__(self, kept: Tensor) -> "Batch":
        """The samples `kept`; what they share is kept whole."""
        own = ("pixels", "adversarial", "labels", "text_index", "teacher_features")
        mine = {name: getattr(self, name) for name in own}
        return replace(self, **{name: value[kept] for name, value in mine.items() if value is not None})


class Objective(ABC):
    """A paper's training loss. Subclasses are frozen dataclasses of its hyper-parameters and hold no model.

    Attributes:
        paper: Where it comes from.
        needs_classes: Whether a batch must carry labels and class embeddings.
        needs_captions: Whether a batch must carry captions.
        needs_attack: Whether `Batch.adversarial` must differ from `Batch.pixels`.
        needs_text_attack: Whether a batch must carry attacked captions.
        needs_random_start: Whether what its attack climbs is flat at the clean image, so that the attack must begin
            beside it.
        compares_samples: Whether a sample has no loss of its own, only together with others of the batch.
        needs_teacher: Whether it compares with the frozen original.
        teacher_towers: Which of its towers it asks in a step.
        other_template: A second template, whose class embeddings it compares with the first's.
        student_passes: Forward passes of the student's image tower that the loss has a gradient through, in one step.
        text_passes: Forward passes of the text tower over class prompts or captions that it has a gradient through.
        teacher_passes: Forward passes of the teacher in one step, for the floor that the benchmark prints.
        trains_vision: Whether its gradient reaches the image tower.
        trains_text: Whether its gradient reaches the text tower.
        trains_class_prompts: Whether it does so by the prompts of all classes, see `student_class_embeds`.
        trains_logit_scale: Whether the temperature learns with it unless an adaptation says otherwise.
    """

    paper: ClassVar[Paper]
    needs_classes: ClassVar[bool] = True
    needs_captions: ClassVar[bool] = False
    needs_attack: ClassVar[bool] = True
    needs_text_attack: ClassVar[bool] = False
    needs_random_start: ClassVar[bool] = False
    compares_samples: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = False
    teacher_towers: ClassVar[tuple[str, ...]] = ("vision",)
    other_template: ClassVar[str | None] = None
    student_passes: ClassVar[int] = 1
    text_passes: ClassVar[int] = 0
    teacher_passes: ClassVar[int] = 0
    trains_vision: ClassVar[bool] = True
    trains_text: ClassVar[bool] = False
    trains_class_prompts: ClassVar[bool] = False
    trains_logit_scale: ClassVar[bool] = False

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

    def text_score(self, teacher: RobustCLIPModel | None, batch: Batch) -> TextScore | None:
        """What the attack on captions climbs; `None` for its own label-free distance from the clean caption.

        Args:
            teacher: The frozen original, where the objective needs one.
            batch: With the clean captions.
        """
        return None


def class_embeds_of(batch: Batch, objective: str) -> Tensor:
    """The batch's class embeddings, or the reason why the objective cannot do without them."""
    if batch.class_embeds is None:
        raise ValueError(f"{objective} needs class labels and class names; this data set has neither.")
    return batch.class_embeds


def teacher_of(teacher: RobustCLIPModel | None, objective: str) -> RobustCLIPModel:
    """The teacher, or the reason why the objective cannot do without it."""
    if teacher is None:
        raise ValueError(f"{objective} compares with the frozen original; give it as the teacher.")
    return teacher


def clean_teacher_features(teacher: RobustCLIPModel, batch: Batch) -> Tensor:
    """The teacher's un-normalised features `(B, D)` of the clean images, computed once for attack and loss."""
    if batch.teacher_features is None:
        with torch.no_grad():
            batch.teacher_features = teacher.encode_image(batch.pixels).float()
    return batch.teacher_features


def student_class_embeds(student: RobustCLIPModel, batch: Batch, objective: str) -> Tensor:
    """Unit class embeddings `(C, D)` with a gradient to the student's text tower: the batch's own, if it has some."""
    if batch.learning_class_embeds is not None:
        return batch.learning_class_embeds
    return encode_class_prompts(student, batch, objective)


def encode_class_prompts(student: RobustCLIPModel, batch: Batch, objective: str) -> Tensor:
    """Unit class embeddings `(C, D)` by a pass of the student's text tower over the batch's prompts."""
    embeds = class_embeds_of(batch, objective)
    if batch.prompt_ids is None:
        raise ValueError(
            f"{objective} trains class prompts through the text tower; the batch carries no prompts, which go to an "
            "objective whose trains_class_prompts is true."
        )
    return pool_templates(student.encode_text(batch.prompt_ids, batch.prompt_mask), len(embeds))


def scale_of(model: RobustCLIPModel, temperature: float | None) -> Tensor | float:
    """What cosines are multiplied by: `1 / temperature`, or with `None` what the model has learned to."""
    return model.logit_scale.exp() if temperature is None else 1 / temperature


def constant_scale(student: nn.Module, temperature: float | None) -> float:
    """`scale_of` as a number without gradient, asked of the model or of a distributed wrapper around it."""
    with torch.no_grad():
        return float(student(compute=lambda model: scale_of(model, temperature)))


def check_weights(**weights: float) -> None:
    """Refuse weights of loss terms below 0.

    Raises:
        ValueError: If one is negative.
    """
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name} must not be negative, got {weight}; 0 switches its term off.")


def check_temperature(temperature: float | None) -> None:
    """Refuse a temperature that cosines cannot be divided by.

    Raises:
        ValueError: If it is not above 0; `None` stands for the checkpoint's.
    """
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature must be above 0, such as CLIP's 0.01, got {temperature}.")


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Refuse a value that is not among the known ones.

    Raises:
        ValueError: If it is not.
    """
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
