"""TGA-ZSR: text-guided attention of the student kept where the original looks on clean images."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from robust_clip.models import RobustCLIPModel
from robust_clip.paper import Paper

from .base import Batch, Objective, check_choice, check_weights, class_embeds_of, teacher_of
from .functional import class_logits

Distance = Literal["l2", "l1", "cosine"]
TokenNorm = Literal["feature", "across_tokens", "none"]

# Against the range 0 of a constant map.
_RANGE = 1e-6


@dataclass(frozen=True)
class TGAZSR(Objective):
    """TeCoA, and attention maps like those of the frozen original on clean images.

    `L = CE(z(x'), y) + alpha mean_i d(A(x'_i), A_0(x_i)) + beta mean_i d(A(x_i), A_0(x_i))` (Yu et al., NeurIPS 2024,
    https://huggingface.co/papers/2410.21802, section 3.2: attention refinement and attention-based model constraint).
    `A(x) = F(x) t_y` is the similarity of each projected patch token with the embedding of the true class's prompt,
    brought to [0, 1] for each image and interpolated to the model's input size; A_0 is the original's. d is the
    Euclidean distance of two maps, not squared and not divided by the number of pixels. The student's pass gives both
    logits, from the class token, and map. The inner attack climbs class-prompt cross-entropy.

    Differs from the authors' code, by default: tokens have unit length. Theirs divides each channel by its norm over
    the tokens of the image (`across_tokens`), which the line was hardly meant to do, since it takes the tokens for the
    features that it was written for. A constant map is 0 instead of not a number, and the original has no gradient.

    Args:
        alpha: Weight of the attention refinement; 0.08 in the authors' code, for a model with an input of 224 pixels.
            The Euclidean distance of maps of that size grows with the side: for another model multiply both weights
            by 224 / side.
        beta: Weight of the attention-based model constraint; 0.05 in the authors' code.
        distance: Of two maps: `l2`; `l1`, a mean over pixels; or `cosine`, 1 minus their cosine.
        token_norm: How tokens are normalised: `feature`, `across_tokens` or `none`.
        upsample: Whether maps are interpolated to the input size, as the paper does; without, maps of the patches
            are compared, whose Euclidean distance is smaller by about the patch size.

    Raises:
        ValueError: If a weight is negative or a choice is unknown.
    """

    alpha: float = 0.08
    beta: float = 0.05
    distance: Distance = "l2"
    token_norm: TokenNorm = "feature"
    upsample: bool = True

    paper: ClassVar[Paper] = Paper(
        title="Text-Guided Attention is All You Need for Zero-Shot Robustness in Vision-Language Models",
        arxiv_id="2410.21802",
        bibtex="""@inproceedings{yu2024text,
  title={Text-Guided Attention is All You Need for Zero-Shot Robustness in Vision-Language Models},
  author={Yu, Lu and Zhang, Haiyang and Xu, Changsheng},
  booktitle={Advances in Neural Information Processing Systems},
  year={2024}
}""",
    )

    def __post_init__(self) -> None:
        check_weights(alpha=self.alpha, beta=self.beta)
        check_choice("distance", self.distance, get_args(Distance))
        check_choice("token_norm", self.token_norm, get_args(TokenNorm))

    @property
    def needs_teacher(self) -> bool:  # type: ignore[override]
        """Not with both weights 0, which is TeCoA."""
        return self.teacher_passes > 0

    @property
    def student_passes(self) -> int:  # type: ignore[override]
        """Adversarial images, and clean ones for the constraint."""
        return 1 + int(self.beta > 0)

    @property
    def teacher_passes(self) -> int:  # type: ignore[override]
        """Clean images."""
        return int(self.alpha > 0 or self.beta > 0)

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"cross_entropy": scalar, "refinement": scalar, "constraint": scalar}`, without those of weight 0."""
        name = type(self).__name__
        class_embeds = class_embeds_of(batch, name)
        if self.alpha:
            tokens = encode_tokens(student, batch.adversarial)
        else:
            tokens = student.encode_image(batch.adversarial).unsqueeze(1)
        logits = class_logits(tokens[:, 0], class_embeds, student.logit_scale.exp())
        terms = {"cross_entropy": F.cross_entropy(logits, batch.labels)}
        if self.alpha or self.beta:
            original = teacher_of(teacher, name)
            with torch.no_grad():
                reference = self._attention(original, encode_tokens(original, batch.pixels), batch)
        if self.alpha:
            attention = self._attention(student, tokens, batch)
            terms["refinement"] = self.alpha * map_distance(attention, reference, self.distance).mean()
        if self.beta:
            attention = self._attention(student, encode_tokens(student, batch.pixels), batch)
            terms["constraint"] = self.beta * map_distance(attention, reference, self.distance).mean()
        return terms

    def _attention(self, model: RobustCLIPModel, tokens: Tensor, batch: Batch) -> Tensor:
        """Attention of the true class, `(B, P)`, of tokens `(B, 1 + N, D)`; P is N or the image's number of pixels."""
        return self._map(model, tokens, class_embeds_of(batch, type(self).__name__)[batch.labels])

    def _map(self, model: RobustCLIPModel, tokens: Tensor, texts: Tensor) -> Tensor:
        attention = attention_map(tokens, texts, self.token_norm)
        return upsample_map(attention, model.image_size) if self.upsample else attention


def encode_tokens(model: Any, pixels: Tensor) -> Tensor:
    """Class token and patch tokens `(B, 1 + N, D)` in the joint space.

    Args:
        model: A model with `encode_image_tokens`.
        pixels: `(B, 3, H, W)` in [0, 1].

    Raises:
        ValueError: If the model yields no patch tokens.
    """
    encode = getattr(model, "encode_image_tokens", None)
    tokens = encode(pixels) if encode is not None else None
    if not isinstance(tokens, Tensor) or tokens.ndim != 3 or tokens.shape[1] < 2:
        got = "has no encode_image_tokens" if tokens is None else f"yields tokens of shape {tuple(tokens.shape)}"
        raise ValueError(
            f"Text-guided attention needs patch tokens (batch, 1 + patches, width), but {type(model).__name__} {got}; "
            "take a CLIP with a vision transformer, as RobustCLIPModel loads it."
        )
    return tokens


def attention_map(tokens: Tensor, texts: Tensor, token_norm: str = "feature") -> Tensor:
    """Similarity of each patch token with a text, brought to [0, 1] for each image, `(B, N)`, in fp32.

    Args:
        tokens: `(B, 1 + N, D)`; the first is the class token, which counts only for the norm `across_tokens`.
        texts: `(B, D)`, one for each image, of any length.
        token_norm: `feature` (tokens of unit length), `across_tokens` (channels of unit length) or `none`.

    >>> attention_map(torch.tensor([[[9.0, 9.0], [2.0, 0.0], [3.0, 4.0], [0.0, 1.0]]]), torch.tensor([[1.0, 0.0]]))
    tensor([[1.0000, 0.6000, 0.0000]])
    """
    tokens = tokens.float()
    if token_norm != "none":
        tokens = F.normalize(tokens, dim=2 if token_norm == "feature" else 1)
    with torch.autocast(tokens.device.type, enabled=False):
        similarities = torch.einsum("bnd,bd->bn", tokens[:, 1:], texts.float())
    low, high = similarities.aminmax(dim=1, keepdim=True)
    return (similarities - low) / (high - low + _RANGE)


def upsample_map(attention: Tensor, side: int) -> Tensor:
    """Maps of a square grid of patches, `(B, N)` row by row, interpolated bilinearly to `side` pixels, `(B, side^2)`.

    >>> upsample_map(torch.tensor([[0.0, 1.0, 0.0, 1.0]]), 4)[0, :4]
    tensor([0.0000, 0.2500, 0.7500, 1.0000])

    Raises:
        ValueError: If N is not a square number.
    """
    patches = math.isqrt(attention.shape[1])
    if patches**2 != attention.shape[1]:
        raise ValueError(f"{attention.shape[1]} patch tokens are no square grid to interpolate; set upsample: false.")
    grid = attention.unflatten(1, (1, patches, patches))
    return F.interpolate(grid, (side, side), mode="bilinear").flatten(1)


def map_distance(attention: Tensor, reference: Tensor, distance: str = "l2") -> Tensor:
    """Distance of two maps `(B, P)` of each image, `(B,)`.

    Args:
        attention: Maps.
        reference: Maps to compare with.
        distance: `l2`, `l1` (a mean over P) or `cosine` (1 minus the cosine).

    >>> one, other = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    >>> [map_distance(one, other, distance).item() for distance in ("l2", "l1", "cosine")]
    [5.0, 3.5, 1.0]
    """
    if distance == "l2":
        euclidean: Tensor = torch.linalg.vector_norm(attention - reference, dim=1)
        return euclidean
    if distance == "l1":
        return (attention - reference).abs().mean(dim=1)
    return 1 - F.cosine_similarity(attention, reference, dim=1)
