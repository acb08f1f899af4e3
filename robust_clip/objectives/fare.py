"""FARE: unsupervised adversarial fine-tuning that keeps the original's image features."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robust_clip.attacks.embedding import EmbeddingDistance
from robust_clip.attacks.losses import AttackLoss
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier
from robust_clip.paper import Paper

from .base import Batch, Objective, clean_teacher_features, teacher_of
from .functional import squared_distance


@dataclass(frozen=True)
class FARE(Objective):
    """Adversarial images keep the features that the frozen original has of the clean ones.

    `L = w mean_i ||f(x_i) - f_0(x_i)||^2 + (1 - w) mean_i ||f(x'_i) - f_0(x_i)||^2`, with the paper's `w = 0`
    (Schlarmann et al., ICML 2024, https://huggingface.co/papers/2402.12336, the loss L_FARE). Features are not
    normalised, which is what lets the tower replace the original's in a vision-language model, and squares are summed
    over their dimensions. The inner attack climbs the same squared distance to the original's clean features; at the
    clean image its gradient is 0 while student and original are the same, so it needs a random start. Neither labels
    nor classes nor texts are looked at.

    The authors' code has `w` and `trades` too. With `trades` the second term's target is the student's own clean
    features, as a constant, and the attack still climbs the distance to the original's.

    Differs from the authors' code: clean images go through the student only where a term or target needs them.

    Args:
        clean_weight: `w`, from 0 to 1; 0 in the paper.
        trades: Whether adversarial features are drawn to the student's own clean ones, in place of the original's.

    Raises:
        ValueError: If `clean_weight` is not between 0 and 1.
    """

    clean_weight: float = 0.0
    trades: bool = False

    paper: ClassVar[Paper] = Paper(
        title="Robust CLIP: Unsupervised Adversarial Fine-Tuning of Vision Embeddings for Robust Large "
        "Vision-Language Models",
        arxiv_id="2402.12336",
        bibtex="""@inproceedings{schlarmann2024robust,
  title={Robust {CLIP}: Unsupervised Adversarial Fine-Tuning of Vision Embeddings for Robust Large Vision-Language
    Models},
  author={Schlarmann, Christian and Singh, Naman Deep and Croce, Francesco and Hein, Matthias},
  booktitle={International Conference on Machine Learning},
  year={2024}
}""",
    )
    needs_classes: ClassVar[bool] = False
    needs_random_start: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.clean_weight <= 1:
            raise ValueError(f"clean_weight is the clean term's share, from 0 to 1, got {self.clean_weight}.")

    @property
    def needs_attack(self) -> bool:  # type: ignore[override]
        """Not where the clean term is all."""
        return self.clean_weight < 1

    @property
    def student_passes(self) -> int:  # type: ignore[override]
        """Of the terms that are on."""
        return int(self.clean_weight < 1) + int(self.clean_weight > 0)

    @property
    def teacher_passes(self) -> int:  # type: ignore[override]
        """One; the student's pass for a target without gradient costs as much as another."""
        return 1 + int(self.trades and not self.clean_weight)

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"adversarial": scalar, "clean": scalar}`, of which a weight of 0 leaves one out."""
        original = clean_teacher_features(teacher_of(teacher, "FARE"), batch)
        terms, target = {}, original
        if self.clean_weight:
            clean = student.encode_image(batch.pixels)
            terms["clean"] = self.clean_weight * squared_distance(clean, original).mean()
            target = clean.detach() if self.trades else original
        elif self.trades:
            with torch.no_grad():
                target = student.encode_image(batch.pixels)
        if self.clean_weight < 1:
            adversarial = student.encode_image(batch.adversarial)
            terms["adversarial"] = (1 - self.clean_weight) * squared_distance(adversarial, target).mean()
        return terms

    def inner_problem(
        self, student: nn.Module, teacher: RobustCLIPModel | None, batch: Batch
    ) -> tuple[Callable[[Tensor], Tensor], AttackLoss]:
        """The student's features, and their squared distance from the original's of the clean images."""
        reference = clean_teacher_features(teacher_of(teacher, "FARE"), batch)
        # Without classes: only features are asked of it.
        return ZeroShotClassifier(student, batch.pixels.new_empty(0, 0)).embed, EmbeddingDistance(reference)
