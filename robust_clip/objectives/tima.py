"""TIMA: text-image mutual awareness, both towers spread their classes and stay near what they were."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robust_clip.attacks.losses import AttackLoss, CrossEntropy
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier
from robust_clip.paper import Paper

from .base import (
    Batch,
    Objective,
    check_choice,
    check_temperature,
    check_weights,
    class_embeds_of,
    clean_teacher_features,
    constant_scale,
    scale_of,
    student_class_embeds,
    teacher_of,
)
from .functional import class_logits, kl_divergence
from .margins import (
    SAME,
    MarginCrossEntropy,
    TextMargin,
    cosines,
    relative_margins,
    squared_distances,
    with_margins,
)

Stage = Literal["joint", "text", "image"]


@dataclass(frozen=True)
class TIMA(Objective):
    """Image-aware text tuning (`mhe`, `iakd`) and text-aware image tuning (`tam`, `takd`), jointly or one by one.

    Ma, Cheng, Li and Liu, AAAI 2026, first version https://huggingface.co/papers/2405.17678. With unit embeddings
    T of the class prompts by the student, T0 by the frozen original, v of x' by the student, v0 of clean x by the
    original, and `p(v, T) = softmax(s v T^t)`:

    - `L_TAM = mean_i CE(s (v_i T^t + m_{y_i}), y_i)`, cross-entropy with the margins of `TextMargin`;
    - `L_TAKD = mean_i KL(p(v0_i, T0) || p(v_i, T0))`, to the image tower;
    - `L_MHE = mean_{j != k} 1 / (1 + ||t_j - t_k||^a)`, to the text tower;
    - `L_IAKD = mean_i KL(p(v0_i, T0) || p(v0_i, T))`, to the text tower;
    - `L_SC = mean_j KL(softmax_{k != j}(s T0 T0^t) || softmax_{k != j}(s T T^t))`, to the text tower;
    - `L = L_TAM + takd L_TAKD + mhe L_MHE + iakd L_IAKD + sc_mhe L_SC`.

    Known of the paper, which has no public code: that these modules exist and what each is for (abstracts of both
    versions), that the margin grows with text distance, and `L_MHE` with a = 2 and the 1 that keeps its gradient from
    exploding (a published summary). Ours: the direction, temperature and reduction of both distillations, the form,
    size and detachment of the margins, all weights, the plain cross-entropy of the attack, and all of `L_SC`: of
    the AAAI version's semantic-consistent MHE (SC-MHE) only its purpose is known. Claim no reproduction.

    Stages: `joint` trains both towers; `text` the text tower alone, on clean images; `image` the image tower alone.
    A second stage begins from the first one's checkpoint, so its T0 are the tuned class embeddings. A term of weight
    0 is not computed, and a tower that no term reaches is not trained. Which weights of the text side learn is not
    known; the adaptation `full` offers the whole tower, its `last_layers`, and `class_residuals`.

    Args:
        stage: `joint`, `text` or `image`.
        mhe: Weight of `L_MHE` (ours). Its values lie in [1/5, 1].
        sc_mhe: Weight of `L_SC` (ours); 0 is the first version.
        iakd: Weight of `L_IAKD` (ours).
        takd: Weight of `L_TAKD` (ours).
        exponent: `a` of `L_MHE`, 2 in the paper.
        margin: Of `L_TAM`; in a recipe a mapping of its fields.
        temperature: `1 / s`, for training and its attack; by default the checkpoint's.

    Raises:
        ValueError: On a negative weight, an exponent or temperature that is not above 0, an unknown stage, or a stage
            that has nothing to train.
    """

    stage: Stage = "joint"
    mhe: float = 1.0
    sc_mhe: float = 0.0
    iakd: float = 1.0
    takd: float = 1.0
    exponent: float = 2.0
    margin: TextMargin = TextMargin()
    temperature: float | None = None

    paper: ClassVar[Paper] = Paper(
        title="TIMA: Text-Image Mutual Awareness for Balancing Zero-Shot Adversarial Robustness and Generalization "
        "Ability",
        arxiv_id="2405.17678",
        bibtex="""@inproceedings{ma2026tima,
  title={{TIMA}: Text-Image Mutual Awareness for Balancing Zero-Shot Adversarial Robustness and Generalization
    Ability},
  author={Ma, Fengji and Cheng, Hei Victor and Li, Chenxing and Liu, Li},
  booktitle={Proceedings of the AAAI Conference on Artificial Intelligence},
  volume={40},
  number={29},
  pages={24235--24243},
  year={2026}
}""",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "margin", TextMargin.of(self.margin))
        check_choice("stage", self.stage, get_args(Stage))
        check_weights(mhe=self.mhe, sc_mhe=self.sc_mhe, iakd=self.iakd, takd=self.takd)
        check_temperature(self.temperature)
        if not self.exponent > 0:
            raise ValueError(f"exponent must be above 0, such as the paper's 2, got {self.exponent}.")
        if self.stage == "text" and not self.mhe + self.sc_mhe + self.iakd:
            raise ValueError("stage text trains nothing when mhe, sc_mhe and iakd are 0; raise one of them.")
        if self.stage != "joint" and self.margin.couple:
            raise ValueError(f"margin.couple lets the image loss move texts: use stage joint, not {self.stage}.")

    @property
    def needs_attack(self) -> bool:  # type: ignore[override]
        """Not where only the text tower learns: it sees clean images."""
        return self.stage != "text"

    @property
    def trains_vision(self) -> bool:  # type: ignore[override]
        """Whether the image tower learns."""
        return self.stage != "text"

    @property
    def trains_text(self) -> bool:  # type: ignore[override]
        """Whether a term reaches the text tower."""
        return self.stage != "image" and (self.margin.couple or self.mhe + self.sc_mhe + self.iakd > 0)

    @property
    def trains_class_prompts(self) -> bool:  # type: ignore[override]
        """Whether a term reaches the text tower, which is always by the prompts of all classes."""
        return self.trains_text

    @property
    def needs_teacher(self) -> bool:  # type: ignore[override]
        """Whether anything of the frozen original is compared with, be it only its class embeddings."""
        semantic = self.margin.kind == "asam" and self.margin.size > 0 and self.stage != "text"
        return self.teacher_passes > 0 or semantic or (self.stage != "image" and self.sc_mhe > 0)

    @property
    def student_passes(self) -> int:  # type: ignore[override]
        """Of the image tower, on adversarial images."""
        return int(self.trains_vision)

    @property
    def text_passes(self) -> int:  # type: ignore[override]
        """Of the text tower, on all class prompts."""
        return int(self.trains_text)

    @property
    def teacher_passes(self) -> int:  # type: ignore[override]
        """One, on clean images, for both distillations."""
        return int((self.stage != "text" and self.takd > 0) or (self.stage != "image" and self.iakd > 0))

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"tam", "takd", "mhe", "iakd", "sc_mhe"}`, those of the stage whose weight is not 0."""
        embeds = class_embeds_of(batch, "TIMA")
        if self.trains_text:
            embeds = student_class_embeds(student, batch, "TIMA")
        scale = scale_of(student, self.temperature)
        clean, expected = None, None
        if self.teacher_passes:
            clean = clean_teacher_features(teacher_of(teacher, "TIMA"), batch)
            expected = class_logits(clean, _original_embeds(batch), scale).detach()
        terms = {}
        if self.trains_vision:
            features = student.encode_image(batch.adversarial)
            terms["tam"] = self._margin_loss(features, embeds, scale, batch)
            if self.takd and expected is not None:
                given = class_logits(features, _original_embeds(batch), scale)
                terms["takd"] = self.takd * kl_divergence(expected, given).mean()
        if self.stage == "image":
            return terms
        if self.mhe:
            terms["mhe"] = self.mhe * hyperspherical_energy(embeds, self.exponent)
        if self.iakd and clean is not None and expected is not None:
            terms["iakd"] = self.iakd * kl_divergence(expected, class_logits(clean, embeds, scale)).mean()
        if self.sc_mhe:
            terms["sc_mhe"] = self.sc_mhe * semantic_divergence(_original_embeds(batch), embeds, scale)
        return terms

    def _margin_loss(self, features: Tensor, embeds: Tensor, scale: Tensor | float, batch: Batch) -> Tensor:
        """Cross-entropy with margins; `embeds` have a gradient to the text tower where it learns."""
        # Those that the attack saw, without gradient, unless coupled.
        targets = embeds if self.margin.couple else class_embeds_of(batch, "TIMA").detach()
        logits = class_logits(features, targets, scale)
        if self.margin.size:
            logits = with_margins(logits, self._margins(batch), scale, self.margin.form)
        return F.cross_entropy(logits, batch.labels)

    def inner_problem(
        self, student: nn.Module, teacher: RobustCLIPModel | None, batch: Batch
    ) -> tuple[Callable[[Tensor], Tensor], AttackLoss]:
        """Class-prompt cross-entropy at this objective's temperature, with margins where `margin.in_attack`."""
        class_embeds = class_embeds_of(batch, "The attack of TIMA").detach()
        classifier = ZeroShotClassifier(student, class_embeds, temperature=self.temperature)
        if not (self.margin.in_attack and self.margin.size):
            return classifier, CrossEntropy(batch.labels)
        scale = constant_scale(student, self.temperature)
        return classifier, MarginCrossEntropy(batch.labels, self._margins(batch), scale, self.margin.form)

    def _margins(self, batch: Batch) -> Tensor:
        """Of each image against each class, `(B, C)`."""
        embeds = _original_embeds(batch) if self.margin.kind == "asam" else class_embeds_of(batch, "TIMA")
        return self.margin.size * relative_margins(embeds, self.margin.kind, self.margin.offset)[batch.labels]


def hyperspherical_energy(embeds: Tensor, exponent: float = 2.0) -> Tensor:
    """`mean_{j != k} 1 / (1 + ||t_j - t_k||^exponent)` of unit embeddings, a scalar; 0 for one class.

    Args:
        embeds: `(C, D)` class embeddings, of any length.
        exponent: Above 0.

    >>> hyperspherical_energy(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), hyperspherical_energy(torch.ones(1, 2))
    (tensor(0.2000), tensor(0.))
    """
    squared = _off_diagonal(squared_distances(embeds))
    energies = 1 / (1 + squared.clamp_min(SAME) ** (exponent / 2))
    return energies.sum() / max(1, energies.numel())


def semantic_divergence(original: Tensor, embeds: Tensor, logit_scale: Tensor | float) -> Tensor:
    """How far each class's similarities to the others, as a softmax, have moved: a scalar, 0 for two classes (ours).

    `mean_j KL(softmax_{k != j}(s cos(t0_j, t0_k)) || softmax_{k != j}(s cos(t_j, t_k)))`. Classes may spread evenly
    without cost, so this does not work against the energy but keeps who is near whom.

    Args:
        original: `(C, D)` class embeddings of the frozen original, of any length.
        embeds: `(C, D)` those of the student.
        logit_scale: s.

    >>> before = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1, 0.0], [1.0, -0.1, 0.0], [1.0, 0.0, 0.3]]))
    >>> after = before + torch.tensor([0.0, 0.0, 0.2])
    >>> semantic_divergence(before, before, 10.0).item(), semantic_divergence(before, after, 10.0).item() > 0
    (0.0, True)
    """
    rows = (logit_scale * _off_diagonal(cosines(each)) for each in (original, embeds))
    return kl_divergence(*rows).mean()


def _off_diagonal(square: Tensor) -> Tensor:
    """`(C, C - 1)`: each row of `(C, C)` without its entry on the diagonal."""
    count = len(square)
    return square[~torch.eye(count, dtype=torch.bool, device=square.device)].view(count, count - 1)


def _original_embeds(batch: Batch) -> Tensor:
    if batch.original_class_embeds is None:
        raise ValueError("TIMA compares with the class embeddings of the frozen original; this batch has none.")
    return batch.original_class_embeds
