"""LEAF: a text tower whose features stay where they were when single characters change."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robust_clip.models import RobustCLIPModel
from robust_clip.paper import Paper

from .base import Batch, Objective, TextScore, teacher_of
from .functional import squared_distance


@dataclass(frozen=True)
class LEAF(Objective):
    """Squared distance of attacked texts' features from the frozen original's features of the clean texts.

    `L = mean_i ||g(t'_i) - g_0(t_i)||^2`, summed over dimensions, of un-normalised features (Rocamora et al., NeurIPS
    2025, https://huggingface.co/papers/2506.03355, Eq. 3). The attack on texts climbs the same distance. Only the text
    tower learns, so any image tower of the same original, such as FARE's, goes with it. Each text of the batch counts
    once for each image that it belongs to.
    """

    paper: ClassVar[Paper] = Paper(
        title="Robustness in Both Domains: CLIP Needs a Robust Text Encoder",
        arxiv_id="2506.03355",
        bibtex="""@inproceedings{abadrocamora2025robustness,
  title = {Robustness in Both Domains: {CLIP} Needs a Robust Text Encoder},
  author = {Abad Rocamora, Elias and Schlarmann, Christian and Singh, Naman Deep and Wu, Yongtao and Hein, Matthias
            and Cevher, Volkan},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2025},
  eprint = {2506.03355},
  archivePrefix = {arXiv}
}""",
    )
    needs_classes: ClassVar[bool] = False
    needs_captions: ClassVar[bool] = True
    needs_attack: ClassVar[bool] = False
    needs_text_attack: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = True
    teacher_towers: ClassVar[tuple[str, ...]] = ("text",)
    student_passes: ClassVar[int] = 0
    text_passes: ClassVar[int] = 1
    trains_vision: ClassVar[bool] = False
    trains_text: ClassVar[bool] = True

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"leaf": scalar}`."""
        if batch.text_index is None or batch.attacked_ids is None:
            raise ValueError("LEAF trains on attacked captions; this batch has none: give captions and a text attack.")
        clean = _clean_features(teacher_of(teacher, "LEAF"), batch)
        attacked = student.encode_text(batch.attacked_ids, batch.attacked_mask)
        return {"leaf": squared_distance(attacked, clean)[batch.text_index].mean()}

    def text_score(self, teacher: RobustCLIPModel | None, batch: Batch) -> TextScore | None:
        """Squared distance from the frozen original's features of the clean texts."""
        clean = _clean_features(teacher_of(teacher, "LEAF"), batch)
        return lambda features, owner: squared_distance(features, clean[owner])


def _clean_features(teacher: RobustCLIPModel, batch: Batch) -> Tensor:
    if batch.input_ids is None:
        raise ValueError("LEAF needs captions, or class names to make prompts of; this batch has neither.")
    if batch.teacher_text_features is None:
        with torch.no_grad():
            batch.teacher_text_features = teacher.encode_text(batch.input_ids, batch.attention_mask).float()
    return batch.teacher_text_features
