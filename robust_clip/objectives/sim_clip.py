"""Sim-CLIP: cosine similarity between the features of adversarial and of clean images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from robust_clip.attacks.embedding import EmbeddingDistance
from robust_clip.attacks.losses import AttackLoss
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier
from robust_clip.paper import Paper

from .base import Batch, Objective, check_choice, clean_teacher_features, teacher_of

Form = Literal["frozen", "siamese"]


@dataclass(frozen=True)
class SimCLIP(Objective):
    """Features of adversarial images point where those of the clean ones do; texts and labels are not looked at.

    Hossain and Imteaj, https://huggingface.co/papers/2407.14971, with `D(a, b) = 1 - mean_i cos(a_i, b_i)` where the
    paper has minus the cosine, which differs by a constant:

    - `siamese`, as the paper writes it: `L = D(f(x'), stop(f(x))) / 2 + D(f(x), stop(f(x'))) / 2`, where both views
      come from the tower that learns. The two halves together have half the gradient of `D(f(x'), f(x))`: SimSiam,
      whose form this is, has a predictor on one side, and without one the stopped gradients prevent no collapse. One
      feature for all images is a minimum, which only a short training at a small learning rate keeps away from.
    - `frozen`, as the authors' code computes it: `L = D(f(x'), f_0(x)) / 2` with the frozen original f_0 on the clean
      image. The other half is there `D(f_0(x), stop(f(x'))) / 2`, which has no gradient, and is left out here.

    The inner attack climbs the squared distance of un-normalised features from the original's clean ones in both
    forms, as in the authors' code; at the clean image its gradient is 0 before training, so it needs a random start.

    Args:
        form: `frozen` or `siamese`.

    Raises:
        ValueError: On an unknown form.
    """

    form: Form = "frozen"

    paper: ClassVar[Paper] = Paper(
        title="Sim-CLIP: Unsupervised Siamese Adversarial Fine-Tuning for Robust and Semantically-Rich "
        "Vision-Language Models",
        arxiv_id="2407.14971",
        bibtex="""@article{hossain2024simclip,
  title={Sim-{CLIP}: Unsupervised Siamese Adversarial Fine-Tuning for Robust and Semantically-Rich Vision-Language
    Models},
  author={Hossain, Md Zarif and Imteaj, Ahmed},
  journal={arXiv preprint arXiv:2407.14971},
  year={2024}
}""",
    )
    needs_classes: ClassVar[bool] = False
    needs_random_start: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = True
    teacher_passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_choice("form", self.form, get_args(Form))

    @property
    def student_passes(self) -> int:  # type: ignore[override]
        """Adversarial images, and in the siamese form clean ones."""
        return 2 if self.form == "siamese" else 1

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"adversarial": scalar}`, and in the siamese form `"clean"`: the half that moves each view."""
        adversarial = student.encode_image(batch.adversarial)
        if self.form == "frozen":
            original = clean_teacher_features(teacher_of(teacher, "Sim-CLIP"), batch)
            return {"adversarial": stopped_distance(adversarial, original).mean() / 2}
        clean = student.encode_image(batch.pixels)
        return {
            "adversarial": stopped_distance(adversarial, clean).mean() / 2,
            "clean": stopped_distance(clean, adversarial).mean() / 2,
        }

    def inner_problem(
        self, student: nn.Module, teacher: RobustCLIPModel | None, batch: Batch
    ) -> tuple[Callable[[Tensor], Tensor], AttackLoss]:
        """The student's features, and their squared distance from the original's of the clean images."""
        reference = clean_teacher_features(teacher_of(teacher, "Sim-CLIP"), batch)
        # Without classes: only features are asked of it.
        return ZeroShotClassifier(student, batch.pixels.new_empty(0, 0)).embed, EmbeddingDistance(reference)


def stopped_distance(features: Tensor, reference: Tensor) -> Tensor:
    """1 minus the cosine of features `(B, D)` with `reference` `(B, D)`, which gets no gradient, `(B,)`, in fp32.

    >>> import torch
    >>> stopped_distance(torch.tensor([[3.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 2.0], [3.0, 4.0]]))
    tensor([1., 0.])
    """
    return 1 - F.cosine_similarity(features.float(), reference.detach().float(), dim=1)
