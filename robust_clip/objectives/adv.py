"""Adv: standard adversarial training with a class head in the place of text, TeCoA's baseline."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robust_clip.attacks.losses import AttackLoss, CrossEntropy
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier
from robust_clip.paper import Paper

from .base import Batch, Objective, check_temperature, class_embeds_of, scale_of
from .functional import class_logits
from .tecoa import TeCoA


@dataclass(frozen=True)
class Adv(Objective):
    """Cross-entropy of adversarial images over a class head that knows nothing of what the classes are called.

    `L = -mean_i log softmax_j(s cos(f(x'_i), w_j))[y_i]`: TeCoA with the rows w of a random head in the place of class
    prompts (the baseline "Adv" of Mao et al., ICLR 2023, https://huggingface.co/papers/2212.07016). What is left out
    is the text, and nothing else, so what it loses beside TeCoA is what text is worth. Classes are only counted. The
    inner attack climbs the same loss.

    The head is ours. A head that is learned would be parameters that CLIP has not, to be kept in checkpoints and
    dropped from the result. This one is fixed: rows are orthonormal, in blocks where classes outnumber dimensions, and
    follow from the seed. Classifiers trained to a fixed head lose little or no accuracy in most tasks
    (https://huggingface.co/papers/1801.04540). But the tower has to come to the head instead of being met halfway, so
    expect it to go farther from its text tower than in the paper.

    Args:
        seed: Of the head.
        temperature: What cosines are divided by, in loss and attack; `None` for the checkpoint's.

    Raises:
        ValueError: If the temperature is not above 0.
    """

    seed: int = 0
    temperature: float | None = None

    paper: ClassVar[Paper] = TeCoA.paper

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"adv": scalar}`."""
        scale = scale_of(student, self.temperature)
        logits = class_logits(student.encode_image(batch.adversarial), self._head(batch), scale)
        return {"adv": F.cross_entropy(logits, batch.labels)}

    def inner_problem(
        self, student: nn.Module, teacher: RobustCLIPModel | None, batch: Batch
    ) -> tuple[Callable[[Tensor], Tensor], AttackLoss]:
        """Cross-entropy over the head."""
        return ZeroShotClassifier(student, self._head(batch), temperature=self.temperature), CrossEntropy(batch.labels)

    def _head(self, batch: Batch) -> Tensor:
        class_embeds = class_embeds_of(batch, "Adv")
        return orthonormal_head(*class_embeds.shape, self.seed).to(class_embeds.device)


@lru_cache(maxsize=8)
def orthonormal_head(classes: int, dimensions: int, seed: int) -> Tensor:
    """Random unit rows `(classes, dimensions)`, orthogonal within each block of `dimensions` rows, float32 on the CPU.

    >>> head = orthonormal_head(3, 8, 0)
    >>> torch.allclose(head @ head.T, torch.eye(3), atol=1e-6)
    True
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = -(-classes // dimensions)
    # What is kept for later must be able to take part in a gradient, wherever it was first asked for.
    with torch.inference_mode(False):
        drawn = torch.randn(blocks, dimensions, dimensions, generator=generator, dtype=torch.float64)
        bases, triangles = torch.linalg.qr(drawn)
        # Signs are the library's choice; with a positive diagonal they follow from what was drawn.
        bases = bases * triangles.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
        head: Tensor = bases.mT.reshape(-1, dimensions)[:classes].float()
        return head
