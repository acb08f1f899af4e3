"""ImgCoAdv: contrastive adversarial training of images against images, TeCoA's baseline without text."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robust_clip.attacks.base import eval_mode
from robust_clip.attacks.losses import AttackLoss, CrossEntropy
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier
from robust_clip.paper import Paper

from .base import Batch, Objective, check_temperature, scale_of
from .functional import class_logits
from .tecoa import TeCoA


@dataclass(frozen=True)
class ImgCoAdv(Objective):
    """Each adversarial image must be nearest to its own clean image among all clean images of the batch.

    `L = -mean_i log softmax_j(s cos(f(x'_i), f(x_j)))[i]`, both views by the student: TeCoA's loss with the batch's
    clean images in the place of class prompts, and no text (a baseline of Mao et al., ICLR 2023,
    https://huggingface.co/papers/2212.07016). The inner attack climbs the same, away from the clean views as they are
    now; each adversarial image is on its own, for it meets no other. Neither labels nor classes are needed.

    Known of the baseline is that it contrasts images with images; the authors' code has not got it. Ours: the one
    direction, clean views for negatives, gradient into both views, and the temperature of TeCoA.

    The loss compares the samples of a batch: it grows with the batch, is 0 for a batch of one image, and under several
    processes each contrasts within its own.

    Args:
        temperature: What cosines are divided by, in loss and attack; `None` for the checkpoint's.

    Raises:
        ValueError: If the temperature is not above 0.
    """

    temperature: float | None = None

    paper: ClassVar[Paper] = TeCoA.paper
    needs_classes: ClassVar[bool] = False
    compares_samples: ClassVar[bool] = True
    student_passes: ClassVar[int] = 2
    # There is no teacher, but the clean views that the attack climbs away from cost as much.
    teacher_passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"img_coadv": scalar}`."""
        scale = scale_of(student, self.temperature)
        clean, adversarial = student.encode_image(batch.pixels), student.encode_image(batch.adversarial)
        return {"img_coadv": view_contrast(adversarial, clean, scale).mean()}

    def inner_problem(
        self, student: nn.Module, teacher: RobustCLIPModel | None, batch: Batch
    ) -> tuple[Callable[[Tensor], Tensor], AttackLoss]:
        """Cross-entropy over the batch's clean views, of which each image has to find its own."""
        with torch.no_grad(), eval_mode(student):
            clean = F.normalize(student(compute=lambda model: model.encode_image(batch.pixels)).float(), dim=-1)
        own = torch.arange(len(clean), device=clean.device)
        return ZeroShotClassifier(student, clean, temperature=self.temperature), CrossEntropy(own)


def view_contrast(adversarial: Tensor, clean: Tensor, logit_scale: Tensor | float) -> Tensor:
    """`-log softmax_j(s cos(a_i, c_j))[i]` of each adversarial view, `(B,)`, in fp32.

    Args:
        adversarial: `(B, D)` features of any length, a.
        clean: `(B, D)` features of the same images, of any length, c.
        logit_scale: s.

    >>> [round(value, 4) for value in view_contrast(torch.eye(2), 3 * torch.eye(2), 1.0).tolist()]
    [0.3133, 0.3133]
    """
    logits = class_logits(adversarial, F.normalize(clean.float(), dim=-1), logit_scale)
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device), reduction="none")
