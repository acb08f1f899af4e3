"""AGFT: adversarial images keep the original's soft alignment with the class texts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robust_clip.attacks.losses import AttackLoss
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier
from robust_clip.paper import Paper

from .base import Batch, Objective, check_temperature, class_embeds_of, clean_teacher_features, scale_of, teacher_of
from .functional import class_logits


@dataclass(frozen=True)
class AGFT(Objective):
    """Cross-entropy of adversarial images with the original's softened predictions in place of labels.

    `L = -mean_i sum_j q_ij log softmax_j(cos(f(x'_i), g_j) / tau)` with
    `q_i = softmax(gamma cos(f_0(x_i), g) / tau)`, f_0 being the frozen original on the clean image (Cui et al., CVPR
    2026, https://huggingface.co/papers/2603.29410, soft alignment with distribution consistency calibration). Classes
    are needed, labels are not looked at. As in the authors' code the inner attack climbs the same loss. Training has a
    temperature of its own; the checkpoint keeps its logit scale, which evaluation uses.

    Args:
        gamma: What the original's logits are multiplied by; 0.4 in the authors' README. Towards 0 all classes are
            equally right, and with a large one its first choice is the label.
        temperature: tau; 1/180 in the authors' README, for a checkpoint whose scale is 100. The targets are then 0.72
            of its logits, softer than its own predictions; at another scale that takes 1 / (1.8 scale). `None` for
            the checkpoint's.

    Raises:
        ValueError: If `gamma` or the temperature is not above 0.
    """

    gamma: float = 0.4
    temperature: float | None = 1 / 180

    paper: ClassVar[Paper] = Paper(
        title="AGFT: Alignment-Guided Fine-Tuning for Zero-Shot Adversarial Robustness of Vision-Language Models",
        arxiv_id="2603.29410",
        bibtex="""@inproceedings{cui2026agft,
  title={AGFT: Alignment-Guided Fine-Tuning for Zero-Shot Adversarial Robustness of Vision-Language Models},
  author={Cui, Yubo and Guan, Xianchao and Xiong, Zijun and Zhang, Zheng},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2026}
}""",
    )
    needs_teacher: ClassVar[bool] = True
    teacher_passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not self.gamma > 0:
            raise ValueError(f"gamma must be above 0, got {self.gamma}; 1 leaves the original's predictions alone.")

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"soft_alignment": scalar}`."""
        targets = self._targets(teacher, batch)
        scale = scale_of(student, self.temperature)
        logits = class_logits(student.encode_image(batch.adversarial), class_embeds_of(batch, "AGFT"), scale)
        return {"soft_alignment": F.cross_entropy(logits, targets)}

    def inner_problem(
        self, student: nn.Module, teacher: RobustCLIPModel | None, batch: Batch
    ) -> tuple[Callable[[Tensor], Tensor], AttackLoss]:
        """Cross-entropy with the soft targets, at the temperature of training."""
        class_embeds = class_embeds_of(batch, "AGFT").detach()
        classifier = ZeroShotClassifier(student, class_embeds, temperature=self.temperature)
        return classifier, SoftCrossEntropy(self._targets(teacher, batch))

    def _targets(self, teacher: RobustCLIPModel | None, batch: Batch) -> Tensor:
        original, class_embeds = teacher_of(teacher, "AGFT"), class_embeds_of(batch, "AGFT")
        with torch.no_grad():
            scale = self.gamma * scale_of(original, self.temperature)
            logits = class_logits(clean_teacher_features(original, batch), class_embeds, scale)
            return torch.softmax(logits, dim=1)


@dataclass(frozen=True, eq=False)
class SoftCrossEntropy(AttackLoss):
    """Cross-entropy with a distribution over classes for each sample.

    Args:
        targets: `(B, C)`, rows of probabilities.

    Example:
        >>> loss = SoftCrossEntropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        >>> [round(value, 4) for value in loss(torch.tensor([[0.0, 0.0], [0.0, 1.0]])).tolist()]
        [0.6931, 1.3133]
    """

    targets: Tensor

    def __call__(self, outputs: Tensor) -> Tensor:
        """Cross-entropy of logits `(B, C)`, `(B,)`."""
        return F.cross_entropy(outputs.float(), self.targets, reduction="none")
