"""AdvFLYP: adversarial fine-tuning by the loss of pre-training, on images and their captions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robust_clip.attacks.losses import AttackLoss
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier
from robust_clip.paper import Paper

from .base import Batch, Objective, check_temperature, check_weights, constant_scale, scale_of, teacher_of
from .functional import class_logits, feature_distance, info_nce, kl_divergence


@dataclass(frozen=True)
class AdvFLYP(Objective):
    """Symmetric InfoNCE of adversarial images and captions, with features and predictions held where they were.

    `L = InfoNCE(x', t) + w_f mean_i (||v'_i - v0'_i|| + ||v'_i - v_i||)
    + w_l mean_i (KL(p'_i || p0'_i) + KL(p'_i || p_i))` with unit features v' of x' and v of x by the student, v0' of
    x' by the frozen original, and p', p, p0' their softmaxes over the captions of the batch (Xing et al., CVPR 2026
    Findings, https://huggingface.co/papers/2604.11576; the terms are those of the authors' code). The text tower is
    frozen. The inner attack climbs InfoNCE over the whole batch, in which samples see each other.

    As in the authors' code, distances are not squared, adversarial predictions come first in the divergences, and the
    clean image's features and prediction learn too. Images of one caption are each other's positives; where captions
    are equal to the letter, the loss is the authors' all the same.

    The loss compares the samples of a batch: under several processes each contrasts within its own.

    Args:
        feature_weight: `w_f`, 1 in the authors' README; the paper finds that it helps clean accuracy.
        logit_weight: `w_l`, 1 in the authors' README; the paper finds that it helps robustness.
        temperature: What cosines are divided by, in loss and attack; `None` for the checkpoint's, 0.01 there.

    Raises:
        ValueError: If a weight is negative or the temperature not above 0.
    """

    feature_weight: float = 1.0
    logit_weight: float = 1.0
    temperature: float | None = None

    paper: ClassVar[Paper] = Paper(
        title="Finetune Like You Pretrain: Boosting Zero-shot Adversarial Robustness in Vision-language Models",
        arxiv_id="2604.11576",
        bibtex="""@article{xing2026finetune,
  title={Finetune Like You Pretrain: Boosting Zero-shot Adversarial Robustness in Vision-language Models},
  author={Xing, Songlong and Wang, Weijie and Zhao, Zhengyu and Gu, Jindong and Torr, Philip and Sebe, Nicu},
  journal={arXiv preprint arXiv:2604.11576},
  year={2026}
}""",
    )
    needs_classes: ClassVar[bool] = False
    needs_captions: ClassVar[bool] = True
    compares_samples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weights(feature_weight=self.feature_weight, logit_weight=self.logit_weight)
        check_temperature(self.temperature)

    @property
    def needs_teacher(self) -> bool:  # type: ignore[override]
        """For either regulariser."""
        return self.feature_weight > 0 or self.logit_weight > 0

    @property
    def student_passes(self) -> int:  # type: ignore[override]
        """Adversarial images, and clean ones for either regulariser."""
        return 1 + int(self.needs_teacher)

    @property
    def teacher_passes(self) -> int:  # type: ignore[override]
        """Adversarial images, for either regulariser."""
        return int(self.needs_teacher)

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"info_nce": scalar, "feature": scalar, "logit": scalar}`, without those of weight 0."""
        captions, groups = _caption_embeds(student, batch)
        scale = scale_of(student, self.temperature)
        adversarial = student.encode_image(batch.adversarial)
        logits = class_logits(adversarial, captions, scale)
        terms = {"info_nce": info_nce(logits, groups)}
        if not self.needs_teacher:
            return terms
        with torch.no_grad():
            original = teacher_of(teacher, "AdvFLYP").encode_image(batch.adversarial)
        clean = student.encode_image(batch.pixels)
        if self.feature_weight:
            apart = [feature_distance(adversarial, each, normalize=True) for each in (original, clean)]
            terms["feature"] = self.feature_weight * torch.stack(apart).sum(dim=0).mean()
        if self.logit_weight:
            apart = [kl_divergence(logits, class_logits(each, captions, scale)) for each in (original, clean)]
            terms["logit"] = self.logit_weight * torch.stack(apart).sum(dim=0).mean()
        return terms

    def inner_problem(
        self, student: nn.Module, teacher: RobustCLIPModel | None, batch: Batch
    ) -> tuple[Callable[[Tensor], Tensor], AttackLoss]:
        """InfoNCE with the captions of the batch, shared out among its images."""
        captions, groups = _caption_embeds(student, batch)
        loss = BatchInfoNCE(captions, groups, constant_scale(student, self.temperature))
        return ZeroShotClassifier(student, captions).embed, loss


@dataclass(frozen=True, eq=False)
class BatchInfoNCE(AttackLoss):
    """Symmetric InfoNCE of a batch, as one value for each image: their sum is the batch's sum, their mean its loss.

    The samples see each other: an image's features also stand in the softmax over images of every caption, so its
    gradient is that of all values. What is kept of a batch contrasts among itself alone, so an attack that lets
    samples leave, or splits the batch, climbs another loss; nothing leaves by itself, for there are no labels.

    Args:
        captions: `(B, D)` unit embeddings of each image's caption.
        groups: `(B,)` integer identity of each image's caption.
        logit_scale: What cosines are multiplied by.

    Example:
        >>> loss = BatchInfoNCE(torch.eye(2), torch.tensor([0, 1]), 2.0)
        >>> [round(value, 4) for value in loss(5 * torch.eye(2)).tolist()]
        [0.1269, 0.1269]
    """

    captions: Tensor
    groups: Tensor
    logit_scale: float

    def __call__(self, outputs: Tensor) -> Tensor:
        """Image i's share, `(B,)`, of features `(B, D)`: the mean of its own direction and its caption's."""
        return info_nce(class_logits(outputs, self.captions, self.logit_scale), self.groups, reduction="none")


def _caption_embeds(student: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Unit embeddings `(B, D)` of each image's caption, without gradient, and the caption's identity `(B,)`."""
    if batch.input_ids is None or batch.text_index is None:
        raise ValueError("AdvFLYP needs captions, or class names to make prompts of; this batch has neither.")
    # The text tower is frozen, so the original's features are the student's, and attack and loss share them.
    if batch.teacher_text_features is None:
        ids, mask = batch.input_ids, batch.attention_mask
        with torch.no_grad():
            batch.teacher_text_features = student(compute=lambda model: model.encode_text(ids, mask)).float()
    return F.normalize(batch.teacher_text_features, dim=-1)[batch.text_index], batch.text_index
