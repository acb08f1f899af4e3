"""CAW: confidence-aware weighting of the divergence from the original model, and feature alignment."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from robust_clip.models import RobustCLIPModel
from robust_clip.paper import Paper

from .base import Batch, Objective, check_weights, class_embeds_of, clean_teacher_features, teacher_of
from .functional import class_logits, feature_distance, kl_divergence


@dataclass(frozen=True)
class CAW(Objective):
    """TeCoA, plus a divergence that counts most where the student is least sure, plus feature alignment.

    `L = CE(z(x'), y) + alpha mean_i (1 - p_i[y_i]) KL(p_i || q_i) + beta mean_i ||f(x'_i) - f_0(x'_i)||_2`, where
    `p_i = softmax(s cos(f(x'_i), g))` is the student on the adversarial image and `q_i = softmax(s cos(f_0(x_i), g))`
    the frozen original on the clean one (Naghavian and Tavassolipour, https://huggingface.co/papers/2510.02913,
    losses L_CA and L_Reg). The student comes first in the divergence; the other order is reported to be worse. The
    alignment compares features of the same adversarial image. The inner attack climbs class-prompt cross-entropy.
    One pass of the student and two of the original without gradient.

    No code was published. `alpha` and `beta`, whether the weight has a gradient and whether features are normalised
    could not be confirmed: those defaults are ours. The weight has a gradient, as it has in MART, a loss of the same
    make. Features have unit length and `beta` is 1, as in AdvFLYP's regulariser of the same form
    (https://huggingface.co/papers/2604.11576); un-normalised features of ViT-B/32 are about 10 long, and want about a
    tenth of it.

    Args:
        alpha: Weight of the confidence-aware divergence (ours).
        beta: Weight of the alignment (ours).
        detach_weight: Whether `1 - p_i[y_i]` is a constant to the gradient (ours).
        normalize_features: Whether features have unit length before they are compared (ours).

    Raises:
        ValueError: If a weight is negative.
    """

    alpha: float = 1.0
    beta: float = 1.0
    detach_weight: bool = False
    normalize_features: bool = True

    paper: ClassVar[Paper] = Paper(
        title="Zero-Shot Robustness of Vision Language Models Via Confidence-Aware Weighting",
        arxiv_id="2510.02913",
        bibtex="""@article{naghavian2025zero,
  title={Zero-Shot Robustness of Vision Language Models Via Confidence-Aware Weighting},
  author={Naghavian, Nikoo and Tavassolipour, Mostafa},
  journal={arXiv preprint arXiv:2510.02913},
  year={2025}
}""",
    )

    def __post_init__(self) -> None:
        check_weights(alpha=self.alpha, beta=self.beta)

    @property
    def needs_teacher(self) -> bool:  # type: ignore[override]
        """Not with both weights 0, which is TeCoA."""
        return self.teacher_passes > 0

    @property
    def teacher_passes(self) -> int:  # type: ignore[override]
        """Clean images for the divergence, adversarial ones for the alignment."""
        return int(self.alpha > 0) + int(self.beta > 0)

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"cross_entropy": scalar, "confidence": scalar, "alignment": scalar}`, without those of weight 0."""
        class_embeds = class_embeds_of(batch, "CAW")
        features = student.encode_image(batch.adversarial)
        logits = class_logits(features, class_embeds, student.logit_scale.exp())
        terms = {"cross_entropy": F.cross_entropy(logits, batch.labels)}
        if self.alpha:
            original = teacher_of(teacher, "CAW")
            with torch.no_grad():
                clean = clean_teacher_features(original, batch)
                clean_logits = class_logits(clean, class_embeds, original.logit_scale.exp())
            divergence = confidence_aware_divergence(logits, clean_logits, batch.labels, self.detach_weight)
            terms["confidence"] = self.alpha * divergence.mean()
        if self.beta:
            # Without gradient in training. An attack on the whole loss differentiates this pass too: its input moves.
            with torch.set_grad_enabled(batch.adversarial.requires_grad):
                reference = teacher_of(teacher, "CAW").encode_image(batch.adversarial)
            terms["alignment"] = self.beta * feature_distance(features, reference, self.normalize_features).mean()
        return terms


def confidence_aware_divergence(
    adversarial_logits: Tensor, clean_logits: Tensor, labels: Tensor, detach_weight: bool = False
) -> Tensor:
    """`(1 - p[y]) KL(p || q)` of each sample, `(B,)`, in fp32.

    Args:
        adversarial_logits: `(B, C)`, of which p is the softmax.
        clean_logits: `(B, C)`, of which q is the softmax.
        labels: `(B,)`, the true classes y.
        detach_weight: Whether the weight `1 - p[y]` is a constant to the gradient.

    >>> student, original = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    >>> round(confidence_aware_divergence(student, original, torch.tensor([0])).item(), 4)
    0.0601
    """
    probabilities = torch.softmax(adversarial_logits.float(), dim=1)
    weight = 1 - probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
    return (weight.detach() if detach_weight else weight) * kl_divergence(adversarial_logits, clean_logits)
