"""PMG-AFT: adversarial fine-tuning guided by the pre-trained model's predictions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robust_clip.attacks.losses import AttackLoss, CrossEntropy
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier
from robust_clip.paper import Paper

from .base import (
    Batch,
    Objective,
    check_choice,
    check_temperature,
    check_weights,
    class_embeds_of,
    scale_of,
    teacher_of,
)
from .functional import class_logits, kl_divergence

Direction = Literal["reference_first", "adversarial_first"]
Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class PMGAFT(Objective):
    """TeCoA, drawn to the original's predictions on adversarial images and to the student's own on clean ones.

    `L = CE(z(x'), y) + alpha KL(p_0(x') || p(x')) + beta KL(p(x) || p(x'))`, a mean over the batch, where p and p_0
    are softmaxes over the class prompts, of the student and of the frozen original (Wang et al., CVPR 2024,
    https://huggingface.co/papers/2401.04350, losses L_robust, L_general and L_clean). The clean prediction in the last
    term learns too. The inner attack climbs class-prompt cross-entropy at the same temperature.

    Differs from the authors' code, by default. Theirs normalises the text features once more after multiplying them by
    the temperature, so that logits are bare cosines, in training, attack and evaluation; it sums the divergences over
    the batch beside a mean of cross-entropy; it builds a graph through the original; and it normalises pixels by the
    mean and deviation of ImageNet instead of CLIP's. `PMGAFT.authors()` has their temperature and sum. Normalisation
    belongs to the model: `image_mean` and `image_std` of its configuration, or of a recipe's `model` section. A sum
    grows with the batch and so depends on how it is cut.

    The reference comes first in both divergences, as in the later of two versions of the authors' code; the earlier
    one, and AdvFLYP's comparison (https://huggingface.co/papers/2604.11576), put the adversarial prediction first.
    Which of them gave the published numbers is not said.

    Args:
        alpha: Weight of the original's guidance; 1 in the authors' code.
        beta: Weight of the clean term; 1 in the authors' code.
        direction: What comes first in the divergences.
        reduction: Of the divergences over the batch.
        temperature: What cosines are divided by; `None` for the checkpoint's.

    Raises:
        ValueError: If a weight is negative, the temperature is not above 0, or a choice is unknown.
    """

    alpha: float = 1.0
    beta: float = 1.0
    direction: Direction = "reference_first"
    reduction: Reduction = "mean"
    temperature: float | None = None

    paper: ClassVar[Paper] = Paper(
        title="Pre-trained Model Guided Fine-Tuning for Zero-Shot Adversarial Robustness",
        arxiv_id="2401.04350",
        bibtex="""@inproceedings{wang2024pre,
  title={Pre-trained Model Guided Fine-Tuning for Zero-Shot Adversarial Robustness},
  author={Wang, Sibo and Zhang, Jie and Yuan, Zheng and Shan, Shiguang},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2024}
}""",
    )

    def __post_init__(self) -> None:
        check_weights(alpha=self.alpha, beta=self.beta)
        check_temperature(self.temperature)
        check_choice("direction", self.direction, get_args(Direction))
        check_choice("reduction", self.reduction, get_args(Reduction))

    @classmethod
    def authors(cls) -> Self:
        """The temperature of 1 and the sum of the authors' code; their pixel normalisation is the model's to have."""
        return cls(reduction="sum", temperature=1.0)

    @property
    def needs_teacher(self) -> bool:  # type: ignore[override]
        """Not without L_general."""
        return self.teacher_passes > 0

    @property
    def student_passes(self) -> int:  # type: ignore[override]
        """Adversarial images, and clean ones for the clean term."""
        return 1 + int(self.beta > 0)

    @property
    def teacher_passes(self) -> int:  # type: ignore[override]
        """Adversarial images."""
        return int(self.alpha > 0)

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"cross_entropy": scalar, "general": scalar, "clean": scalar}`, without those of weight 0."""
        class_embeds = class_embeds_of(batch, "PMG-AFT")
        scale = scale_of(student, self.temperature)
        logits = class_logits(student.encode_image(batch.adversarial), class_embeds, scale)
        terms = {"cross_entropy": F.cross_entropy(logits, batch.labels)}
        if self.alpha:
            original = teacher_of(teacher, "PMG-AFT")
            # Without gradient in training. An attack on the whole loss differentiates this pass too: its input moves.
            with torch.set_grad_enabled(batch.adversarial.requires_grad):
                original_logits = class_logits(original.encode_image(batch.adversarial), class_embeds, scale)
            terms["general"] = self.alpha * self._divergence(original_logits, logits)
        if self.beta:
            clean_logits = class_logits(student.encode_image(batch.pixels), class_embeds, scale)
            terms["clean"] = self.beta * self._divergence(clean_logits, logits)
        return terms

    def inner_problem(
        self, student: nn.Module, teacher: RobustCLIPModel | None, batch: Batch
    ) -> tuple[Callable[[Tensor], Tensor], AttackLoss]:
        """Class-prompt cross-entropy at the temperature of the loss."""
        class_embeds = class_embeds_of(batch, "PMG-AFT").detach()
        classifier = ZeroShotClassifier(student, class_embeds, temperature=self.temperature)
        return classifier, CrossEntropy(batch.labels)

    def _divergence(self, reference: Tensor, adversarial: Tensor) -> Tensor:
        first, second = (reference, adversarial) if self.direction == "reference_first" else (adversarial, reference)
        divergences = kl_divergence(first, second)
        return divergences.sum() if self.reduction == "sum" else divergences.mean()
