"""Clean fine-tuning on class prompts: the baseline without an attack."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from robust_clip.models import RobustCLIPModel
from robust_clip.paper import Paper

from .base import Batch, Objective, class_embeds_of
from .functional import class_logits
from .tecoa import TeCoA


@dataclass(frozen=True)
class Clean(Objective):
    """Cross-entropy of clean images over all class prompts: TeCoA with epsilon 0.

    The clean fine-tuning row of TeCoA's tables (Mao et al., https://huggingface.co/papers/2212.07016, section 4).
    """

    paper: ClassVar[Paper] = TeCoA.paper
    needs_attack: ClassVar[bool] = False

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"clean": scalar}`."""
        class_embeds = class_embeds_of(batch, "Clean fine-tuning")
        logits = class_logits(student.encode_image(batch.pixels), class_embeds, student.logit_scale.exp())
        return {"clean": F.cross_entropy(logits, batch.labels)}
