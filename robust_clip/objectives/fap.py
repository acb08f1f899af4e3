"""FAP: prompts in both towers, right on clean images and of the same opinion on adversarial ones."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robust_clip.attacks.base import eval_mode
from robust_clip.attacks.losses import AttackLoss
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier
from robust_clip.paper import Paper

from .base import Batch, Objective, check_choice, check_weights, class_embeds_of, student_class_embeds
from .functional import class_logits, kl_divergence
from .trades import PredictionDivergence

Climbed = Literal["cross_entropy", "divergence"]


@dataclass(frozen=True)
class FAP(Objective):
    """Cross-entropy of clean images, and divergence of adversarial predictions weighted by how alike the features are.

    `L = mean_i CE(p(x_i), y_i) + weight mean_i KL(p(x_i) || p(x'_i)) (cos(v(x_i), v(x'_i)) + 1)`, with p a softmax
    over class prompts with a learned context and v the image features (Zhou et al., NeurIPS 2024,
    https://huggingface.co/papers/2403.14774, the uni-modal adversarial-aware mechanism and the total loss). The cosine
    is part of the loss, not a constant: the less alike clean and adversarial features are, the smaller it is.

    The paper learns few-shot, with prompts of MaPLe in both towers: 2 vectors in each of the first 9 layers. Here that
    is `adaptation: {name: prompts, tokens: 2, context: 2, depth: 9}`. Ours: MaPLe's linear layers from each layer's
    text prompts to its visual ones are left out, so that both learn on their own; and all of the loss has a gradient
    to both predictions, of which we found no statement.

    Args:
        weight: Of the divergence, lambda in the paper; 1 there. 0 is clean prompt tuning.
        attack_climbs: `cross_entropy` of the label, or the `divergence` from the clean prediction, as in TRADES; the
            authors' code has both.

    Raises:
        ValueError: If the weight is negative or what the attack climbs unknown.
    """

    weight: float = 1.0
    attack_climbs: Climbed = "cross_entropy"

    paper: ClassVar[Paper] = Paper(
        title="Few-Shot Adversarial Prompt Learning on Vision-Language Models",
        arxiv_id="2403.14774",
        bibtex="""@inproceedings{zhou2024few,
  title={Few-Shot Adversarial Prompt Learning on Vision-Language Models},
  author={Zhou, Yiwei and Xia, Xiaobo and Lin, Zhiwei and Han, Bo and Liu, Tongliang},
  booktitle={Advances in Neural Information Processing Systems},
  year={2024}
}""",
    )
    text_passes: ClassVar[int] = 1
    trains_text: ClassVar[bool] = True
    trains_class_prompts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weights(weight=self.weight)
        check_choice("attack_climbs", self.attack_climbs, get_args(Climbed))

    @property
    def needs_attack(self) -> bool:  # type: ignore[override]
        """Not without the divergence."""
        return self.weight > 0

    @property
    def needs_random_start(self) -> bool:  # type: ignore[override]
        """The divergence is flat at the clean image."""
        return self.needs_attack and self.attack_climbs == "divergence"

    @property
    def student_passes(self) -> int:  # type: ignore[override]
        """Clean images, and adversarial ones for the divergence."""
        return 1 + int(self.needs_attack)

    @property
    def teacher_passes(self) -> int:  # type: ignore[override]
        """There is no teacher, but the clean prediction that the attack climbs away from costs as much."""
        return int(self.needs_random_start)

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"clean": scalar, "divergence": scalar}`, the second unless the weight is 0."""
        class_embeds, scale = student_class_embeds(student, batch, "FAP"), student.logit_scale.exp()
        features = student.encode_image(batch.pixels)
        logits = class_logits(features, class_embeds, scale)
        terms = {"clean": F.cross_entropy(logits, batch.labels)}
        if self.weight:
            adversarial = student.encode_image(batch.adversarial)
            divergence = kl_divergence(logits, class_logits(adversarial, class_embeds, scale))
            alike = F.cosine_similarity(features.float(), adversarial.float())
            terms["divergence"] = self.weight * (divergence * (alike + 1)).mean()
        return terms

    def inner_problem(
        self, student: nn.Module, teacher: RobustCLIPModel | None, batch: Batch
    ) -> tuple[Callable[[Tensor], Tensor], AttackLoss]:
        """Cross-entropy, or the divergence from the clean prediction, as the student predicts now."""
        if self.attack_climbs == "cross_entropy":
            return super().inner_problem(student, teacher, batch)
        classifier = ZeroShotClassifier(student, class_embeds_of(batch, "The attack of FAP").detach())
        with torch.no_grad(), eval_mode(classifier):
            return classifier, PredictionDivergence(classifier(batch.pixels))
