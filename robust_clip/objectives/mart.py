"""MART on class prompts: misclassification-aware adversarial training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robust_clip.attacks.losses import AttackLoss, CrossEntropy
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier
from robust_clip.paper import Paper

from .base import Batch, Objective, check_temperature, check_weights, class_embeds_of, scale_of
from .functional import class_logits, kl_divergence


@dataclass(frozen=True)
class MART(Objective):
    """Boosted cross-entropy of adversarial images, and divergence that weighs more where clean images are not sure.

    `L = mean_i BCE(p(x'_i), y_i) + beta KL(p(x_i) || p(x'_i)) (1 - p(x_i)[y_i])` with
    `BCE(p, y) = -log p[y] - log(1 - max_{k != y} p[k])` and p a softmax over the class prompts (Wang et al., ICLR
    2020, https://openreview.net/forum?id=rklOg6EFwS, section 3; not on arXiv; the paper writes lambda for beta).
    The inner attack climbs cross-entropy. That the classes are prompts of a frozen text tower is ours; the paper
    trains a classifier. As in the authors' code, gradients flow into the clean prediction and into the weight.

    Differs from the authors' code: `log(1 - p)` is computed exactly from the logits, where theirs adds 0.0001 and so
    stops pushing at 9.2 nats; at CLIP's temperature sure mistakes are beyond that.

    Args:
        beta: Weight of the divergence; 6 is the default of the authors' `mart.py`, 5 in their script for ResNet-18.
        detach_weight: Whether `1 - p(x)[y]` is a constant to the gradient (ours).
        temperature: What cosines are divided by, in loss and attack; `None` for the checkpoint's.

    Raises:
        ValueError: If beta is negative or the temperature not above 0.
    """

    beta: float = 6.0
    detach_weight: bool = False
    temperature: float | None = None

    paper: ClassVar[Paper] = Paper(
        title="Improving Adversarial Robustness Requires Revisiting Misclassified Examples",
        arxiv_id=None,
        bibtex="""@inproceedings{wang2020improving,
  title={Improving Adversarial Robustness Requires Revisiting Misclassified Examples},
  author={Wang, Yisen and Zou, Difan and Yi, Jinfeng and Bailey, James and Ma, Xingjun and Gu, Quanquan},
  booktitle={International Conference on Learning Representations},
  year={2020}
}""",
        url="https://openreview.net/forum?id=rklOg6EFwS",
    )

    def __post_init__(self) -> None:
        check_weights(beta=self.beta)
        check_temperature(self.temperature)

    @property
    def student_passes(self) -> int:  # type: ignore[override]
        """Adversarial images, and clean ones for the divergence."""
        return 1 + int(self.beta > 0)

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"boosted": scalar, "divergence": scalar}`, the second unless beta is 0."""
        class_embeds = class_embeds_of(batch, "MART")
        scale = scale_of(student, self.temperature)
        adversarial = class_logits(student.encode_image(batch.adversarial), class_embeds, scale)
        terms = {"boosted": boosted_cross_entropy(adversarial, batch.labels).mean()}
        if self.beta:
            clean = class_logits(student.encode_image(batch.pixels), class_embeds, scale)
            weight = 1 - torch.softmax(clean, dim=1).gather(1, batch.labels.unsqueeze(1)).squeeze(1)
            weight = weight.detach() if self.detach_weight else weight
            terms["divergence"] = self.beta * (weight * kl_divergence(clean, adversarial)).mean()
        return terms

    def inner_problem(
        self, student: nn.Module, teacher: RobustCLIPModel | None, batch: Batch
    ) -> tuple[Callable[[Tensor], Tensor], AttackLoss]:
        """Class-prompt cross-entropy at the temperature of the loss."""
        class_embeds = class_embeds_of(batch, "The attack of MART").detach()
        return ZeroShotClassifier(student, class_embeds, temperature=self.temperature), CrossEntropy(batch.labels)


def boosted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """`-log p[y] - log(1 - max_{k != y} p[k])` of each sample, `(B,)`, in fp32; 0 where there is one class.

    Args:
        logits: `(B, C)`, of which p is the softmax.
        labels: `(B,)`, the true classes y.

    >>> [round(value, 4) for value in boosted_cross_entropy(torch.zeros(1, 4), torch.tensor([0])).tolist()]
    [1.674]
    """
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, reduction="none")
    if logits.shape[1] == 1:
        return loss
    strongest = logits.detach().scatter(1, labels.unsqueeze(1), -torch.inf).argmax(dim=1, keepdim=True)
    # The probability that is left to all others is summed, not subtracted from 1: it may be smaller than rounding.
    others = torch.log_softmax(logits, dim=1).scatter(1, strongest, -torch.inf)
    return loss - others.logsumexp(dim=1)
