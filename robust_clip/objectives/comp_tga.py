"""Comp-TGA: text-guided attention that is taken away where a sentence of the opposite meaning looks."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robust_clip.models import RobustCLIPModel
from robust_clip.paper import Paper

from .base import Batch
from .tga_zsr import TGAZSR


@dataclass(frozen=True)
class CompTGA(TGAZSR):
    """TGA-ZSR with complementary attention: `A = A_class (1 - A_other)`, each brought to [0, 1] and upsampled first.

    `A_other` is guided by the true class's name in a sentence that denies it (Yu, Zhang and Xu, TPAMI 2026,
    https://huggingface.co/papers/2603.18598, successor of https://huggingface.co/papers/2410.21802). All else, and
    what differs from the authors' code, is as in `TGAZSR`. Both maps come from the same pass.

    Args:
        alpha: Weight of the attention refinement; 0.10 in the authors' code, at 224 pixels, as in `TGAZSR`.
        beta: Weight of the attention-based model constraint; 0.07 in the authors' code.
        distance: As in `TGAZSR`.
        token_norm: As in `TGAZSR`.
        upsample: As in `TGAZSR`.
        other_template: The sentence, with `{}` for the class name; by default the authors' code's.

    Raises:
        ValueError: As `TGAZSR`, or if `other_template` has no `{}`.
    """

    alpha: float = 0.10
    beta: float = 0.07
    other_template: str = "This is not a photo of a {}"  # type: ignore[misc]

    paper: ClassVar[Paper] = Paper(
        title="Complementary Text-Guided Attention for Zero-Shot Adversarial Robustness",
        arxiv_id="2603.18598",
        bibtex="""@article{yu2026complementary,
  title={Complementary Text-Guided Attention for Zero-Shot Adversarial Robustness},
  author={Yu, Lu and Zhang, Haiyang and Xu, Changsheng},
  journal={IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year={2026}
}""",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if "{}" not in self.other_template:
            raise ValueError(f"other_template needs a {{}} where the class name goes, got {self.other_template!r}.")

    def _attention(self, model: RobustCLIPModel, tokens: Tensor, batch: Batch) -> Tensor:
        if batch.other_class_embeds is None:
            raise ValueError("CompTGA needs class embeddings of its other_template; the batch has none.")
        other = self._map(model, tokens, batch.other_class_embeds[batch.labels])
        return super()._attention(model, tokens, batch) * (1 - other)
