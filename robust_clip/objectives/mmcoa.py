"""MMCoA: multimodal contrastive adversarial training, on adversarial images and adversarial texts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robust_clip.attacks.losses import AttackLoss, CrossEntropy
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier
from robust_clip.paper import Paper

from .base import Batch, Objective, check_choice, check_weights
from .functional import class_logits

Domain = Literal["image", "text", "both"]
Duplicates = Literal["soft_targets", "mask", "authors"]


@dataclass(frozen=True)
class MMCoA(Objective):
    """In-batch contrast of adversarial images with clean texts, and of clean images with adversarial texts.

    `L = w_i (CE(S1, diag) + CE(S1^T, diag)) + w_t (CE(S2, diag) + CE(S2^T, diag))` with
    `S1 = s cos(f(x'_i), g(t_j))` and `S2 = s cos(f(x_i), g(t'_j))` (Zhou et al.,
    https://huggingface.co/papers/2404.19287, section 3.3; the weights are those of the authors' code). Both towers and
    the temperature learn. No term contrasts attacked images with attacked texts. Texts are captions, or prompts of the
    images' classes. The attack on images climbs cross-entropy over all class prompts; where there are no classes, over
    the distinct captions of the batch (ours). The attack on texts is label-free and runs once for each distinct text.

    Differs from the authors' code: no gradient of the attack reaches the weights (theirs adds those of all its steps
    to the update), equal texts in a batch are not each other's negatives by default, and texts are attacked together.
    Under several processes each contrasts within its own batch.

    Args:
        domain: `both`, the method; `image` or `text` for one of its sides. `text` trains the text tower alone, without
            the temperature; the authors' code keeps its position embeddings and projection frozen, too.
        image_weight: `w_i`, 0.5 in the authors' code. A side of weight 0 is left out, with its attack.
        text_weight: `w_t`, 0.5 in the authors' code.
        duplicates: What becomes of other pairs with the very same text. `authors` takes them for negatives. With
            `soft_targets` equal texts are one text to choose from, and its images share the target. `mask` leaves
            them out in both directions (both ours).

    Raises:
        ValueError: On a negative weight, if nothing is left to learn from, or on an unknown domain or way with
            duplicates.
    """

    domain: Domain = "both"
    image_weight: float = 0.5
    text_weight: float = 0.5
    duplicates: Duplicates = "soft_targets"

    paper: ClassVar[Paper] = Paper(
        title="Revisiting the Adversarial Robustness of Vision Language Models: a Multimodal Perspective",
        arxiv_id="2404.19287",
        bibtex="""@article{zhou2024revisiting,
  title={Revisiting the Adversarial Robustness of Vision Language Models: a Multimodal Perspective},
  author={Zhou, Wanqi and Bai, Shuanghao and Mandic, Danilo P. and Zhao, Qibin and Chen, Badong},
  journal={arXiv preprint arXiv:2404.19287},
  year={2024}
}""",
    )
    needs_classes: ClassVar[bool] = False
    needs_captions: ClassVar[bool] = True
    trains_text: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weights(image_weight=self.image_weight, text_weight=self.text_weight)
        check_choice("domain", self.domain, get_args(Domain))
        check_choice("duplicates", self.duplicates, get_args(Duplicates))
        if not (self.needs_attack or self.needs_text_attack):
            told = f"domain {self.domain!r}, image_weight {self.image_weight:g}, text_weight {self.text_weight:g}"
            raise ValueError(f"MMCoA has nothing to learn from with {told}; raise a weight.")

    @property
    def needs_attack(self) -> bool:  # type: ignore[override]
        """Whether images are attacked."""
        return self.domain != "text" and self.image_weight > 0

    @property
    def needs_text_attack(self) -> bool:  # type: ignore[override]
        """Whether texts are attacked."""
        return self.domain != "image" and self.text_weight > 0

    @property
    def trains_vision(self) -> bool:  # type: ignore[override]
        """Whether the image tower learns."""
        return self.domain != "text"

    @property
    def trains_logit_scale(self) -> bool:  # type: ignore[override]
        """Whether the temperature learns with the towers."""
        return self.domain != "text"

    @property
    def student_passes(self) -> int:  # type: ignore[override]
        """Of the image tower: adversarial images, and clean ones beside attacked texts."""
        return self.needs_attack + self.needs_text_attack

    @property
    def text_passes(self) -> int:  # type: ignore[override]
        """Of the text tower: clean texts beside adversarial images, and attacked texts."""
        return self.student_passes

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"image": scalar, "text": scalar}`, of which each domain has its own, without that of weight 0."""
        if batch.input_ids is None or batch.text_index is None:
            raise ValueError("MMCoA needs captions, or class names to make prompts of; this batch has neither.")
        scale = student.logit_scale.exp()
        terms = {}
        if self.needs_attack:
            texts = _unit_texts(student, batch.input_ids, batch.attention_mask)[batch.text_index]
            logits = class_logits(student.encode_image(batch.adversarial), texts, scale)
            terms["image"] = self.image_weight * pair_contrast(logits, batch.text_index, self.duplicates)
        if self.needs_text_attack:
            if batch.attacked_ids is None:
                raise ValueError("MMCoA trains on attacked texts; this batch has none: give a text attack.")
            texts = _unit_texts(student, batch.attacked_ids, batch.attacked_mask)[batch.text_index]
            logits = class_logits(student.encode_image(batch.pixels), texts, scale)
            terms["text"] = self.text_weight * pair_contrast(logits, batch.text_index, self.duplicates)
        return terms

    def inner_problem(
        self, student: nn.Module, teacher: RobustCLIPModel | None, batch: Batch
    ) -> tuple[Callable[[Tensor], Tensor], AttackLoss]:
        """Cross-entropy over all class prompts, or without classes over the distinct captions of the batch.

        Raises:
            ValueError: If the batch has neither.
        """
        if batch.class_embeds is not None:
            return super().inner_problem(student, teacher, batch)
        if batch.input_ids is None or batch.text_index is None:
            raise ValueError("The attack of MMCoA needs class prompts or captions; this batch has neither.")
        with torch.no_grad():
            texts = _unit_texts(student, batch.input_ids, batch.attention_mask)
        return ZeroShotClassifier(student, texts), CrossEntropy(batch.text_index)


def _unit_texts(student: RobustCLIPModel | nn.Module, ids: Tensor, mask: Tensor | None) -> Tensor:
    features: Tensor = student.encode_text(ids, mask)  # type: ignore[operator]
    return F.normalize(features.float(), dim=-1)


def pair_contrast(logits: Tensor, groups: Tensor, duplicates: Duplicates = "soft_targets") -> Tensor:
    """Cross-entropy of pairs over a batch, image to text plus text to image (MMCoA, section 3.3).

    Args:
        logits: `(B, B)`, image i against the text of image j.
        groups: `(B,)` integer identity of each image's text.
        duplicates: What becomes of the other pairs of a group, see `MMCoA`.

    Returns:
        Scalar, the sum of both directions, each a mean over the batch.

    >>> logits, alike = torch.tensor([[2.0, 2.0], [0.0, 0.0]]), torch.tensor([0, 0])
    >>> [round(abs(float(pair_contrast(logits, alike, how))), 4) for how in ("soft_targets", "mask", "authors")]
    [1.1269, 0.0, 1.8201]
    """
    logits = logits.float()
    least = torch.finfo(logits.dtype).min
    same = groups[:, None] == groups[None, :]
    own = torch.eye(len(groups), dtype=torch.bool, device=logits.device)
    others = same & ~own
    if duplicates == "soft_targets":
        repeated = others.tril().any(dim=1)
        images = same / same.sum(dim=1, keepdim=True)
        return _cross_entropy(logits.masked_fill(repeated, least), same & ~repeated) + _cross_entropy(logits.T, images)
    if duplicates == "mask":
        logits = logits.masked_fill(others, least)
    return _cross_entropy(logits, own) + _cross_entropy(logits.T, own)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets.float())
