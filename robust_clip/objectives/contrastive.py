"""Contrastive language-image pre-training on captions."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from robust_clip.models import RobustCLIPModel
from robust_clip.paper import Paper

from .base import Batch, Objective
from .functional import class_logits, info_nce


@dataclass(frozen=True)
class Contrastive(Objective):
    """Symmetric InfoNCE between images and captions of the batch, both towers and the temperature trained.

    Radford et al., ICML 2021, https://huggingface.co/papers/2103.00020, Figure 3. Identical captions in a batch are
    encoded once. Under several processes each contrasts within its own batch.

    Args:
        max_logit_scale: Bound on `exp(logit_scale)` (section 2.5 of the paper: 100).

    Raises:
        ValueError: If `max_logit_scale` is not positive.
    """

    max_logit_scale: float = 100.0

    paper: ClassVar[Paper] = Paper(
        title="Learning Transferable Visual Models From Natural Language Supervision",
        arxiv_id="2103.00020",
        bibtex="""@inproceedings{radford2021learning,
  title={Learning Transferable Visual Models From Natural Language Supervision},
  author={Radford, Alec and Kim, Jong Wook and Hallacy, Chris and Ramesh, Aditya and Goh, Gabriel and
    Agarwal, Sandhini and Sastry, Girish and Askell, Amanda and Mishkin, Pamela and Clark, Jack and Krueger, Gretchen
    and Sutskever, Ilya},
  booktitle={International Conference on Machine Learning},
  year={2021}
}""",
    )
    needs_classes: ClassVar[bool] = False
    needs_captions: ClassVar[bool] = True
    needs_attack: ClassVar[bool] = False
    trains_text: ClassVar[bool] = True
    trains_logit_scale: ClassVar[bool] = True
    text_passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.max_logit_scale <= 0:
            raise ValueError(f"max_logit_scale must be positive, got {self.max_logit_scale}.")

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"contrastive": scalar}`."""
        if batch.input_ids is None or batch.text_index is None:
            raise ValueError("The contrastive objective needs captions, or class names to make them of.")
        text_embeds = F.normalize(student.encode_text(batch.input_ids, batch.attention_mask).float(), dim=-1)
        scale = student.logit_scale.exp().clamp(max=self.max_logit_scale)
        logits = class_logits(student.encode_image(batch.pixels), text_embeds[batch.text_index], scale)
        return {"contrastive": info_nce(logits, batch.text_index)}
