"""TRADES on class prompts: right on clean images, and of the same opinion on adversarial ones."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robust_clip.attacks.base import eval_mode
from robust_clip.attacks.losses import AttackLoss
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier
from robust_clip.paper import Paper

from .base import Batch, Objective, check_temperature, check_weights, class_embeds_of, scale_of
from .functional import class_logits, kl_divergence


@dataclass(frozen=True)
class TRADES(Objective):
    """Cross-entropy of clean images, and divergence of adversarial predictions from clean ones.

    `L = mean_i CE(p(x_i), y_i) + beta KL(p(x_i) || p(x'_i))`, with p a softmax over the class prompts (Zhang et al.,
    ICML 2019, https://huggingface.co/papers/1901.08573, Algorithm 1, whose 1 / lambda is beta). The inner attack
    climbs the divergence, knows no labels, and needs a random start: at the clean image its gradient is 0. That the
    classes are prompts of a frozen text tower is ours; the paper trains a classifier.

    As in the authors' code, the gradient of the divergence flows into the clean prediction too.

    Args:
        beta: Weight of the divergence; 6 in the paper's main result on CIFAR-10. 0 is clean fine-tuning.
        detach_clean: Whether the clean prediction is a constant to the divergence (ours).
        temperature: What cosines are divided by, in loss and attack; `None` for the checkpoint's.

    Raises:
        ValueError: If beta is negative or the temperature not above 0.
    """

    beta: float = 6.0
    detach_clean: bool = False
    temperature: float | None = None

    paper: ClassVar[Paper] = Paper(
        title="Theoretically Principled Trade-off between Robustness and Accuracy",
        arxiv_id="1901.08573",
        bibtex="""@inproceedings{zhang2019theoretically,
  title={Theoretically Principled Trade-off between Robustness and Accuracy},
  author={Zhang, Hongyang and Yu, Yaodong and Jiao, Jiantao and Xing, Eric and El Ghaoui, Laurent and Jordan, Michael},
  booktitle={International Conference on Machine Learning},
  year={2019}
}""",
    )

    needs_random_start: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weights(beta=self.beta)
        check_temperature(self.temperature)

    @property
    def needs_attack(self) -> bool:  # type: ignore[override]
        """Not without the divergence."""
        return self.beta > 0

    @property
    def student_passes(self) -> int:  # type: ignore[override]
        """Clean images, and adversarial ones for the divergence."""
        return 1 + int(self.beta > 0)

    @property
    def teacher_passes(self) -> int:  # type: ignore[override]
        """There is no teacher, but the clean prediction that the attack climbs away from costs as much."""
        return int(self.beta > 0)

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"clean": scalar, "divergence": scalar}`, the second unless beta is 0."""
        class_embeds = class_embeds_of(batch, "TRADES")
        scale = scale_of(student, self.temperature)
        clean = class_logits(student.encode_image(batch.pixels), class_embeds, scale)
        terms = {"clean": F.cross_entropy(clean, batch.labels)}
        if self.beta:
            adversarial = class_logits(student.encode_image(batch.adversarial), class_embeds, scale)
            reference = clean.detach() if self.detach_clean else clean
            terms["divergence"] = self.beta * kl_divergence(reference, adversarial).mean()
        return terms

    def inner_problem(
        self, student: nn.Module, teacher: RobustCLIPModel | None, batch: Batch
    ) -> tuple[Callable[[Tensor], Tensor], AttackLoss]:
        """Divergence from the clean prediction, as the student predicts now."""
        class_embeds = class_embeds_of(batch, "The attack of TRADES").detach()
        classifier = ZeroShotClassifier(student, class_embeds, temperature=self.temperature)
        with torch.no_grad(), eval_mode(classifier):
            return classifier, PredictionDivergence(classifier(batch.pixels))


@dataclass(frozen=True, eq=False)
class PredictionDivergence(AttackLoss):
    """`KL(softmax(reference) || softmax(outputs))`: how far a prediction is from the clean one, without labels.

    Args:
        reference: `(B, C)` logits of the clean images. Where the outputs equal them the gradient is 0.

    Example:
        >>> loss = PredictionDivergence(torch.tensor([[0.0, 0.0]]))
        >>> round(loss(torch.tensor([[1.0, 0.0]])).item(), 4)
        0.1201
    """

    reference: Tensor

    def __call__(self, outputs: Tensor) -> Tensor:
        """Divergence of logits `(B, C)`, `(B,)`."""
        return kl_divergence(self.reference, outputs)
