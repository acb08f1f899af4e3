"""Losses on embeddings: what an attack climbs that needs neither labels nor classes."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robust_clip.attacks.losses import AttackLoss


@dataclass(frozen=True, eq=False)
class EmbeddingDistance(AttackLoss):
    """Squared Euclidean distance from reference embeddings, the inner loss of FARE.

    See https://huggingface.co/papers/2402.12336. Its gradient is zero where the outputs equal the reference, so an
    attack on the model that gave the reference needs a random start.

    Args:
        reference: `(B, ...)`, embeddings of the clean images, usually the teacher's.

    Example:
        >>> EmbeddingDistance(torch.zeros(1, 2))(torch.tensor([[3.0, 4.0]])).tolist()
        [25.0]
    """

    reference: Tensor

    def __call__(self, outputs: Tensor) -> Tensor:
        """Squared distance of embeddings `(B, ...)`, `(B,)`."""
        if outputs.shape != self.reference.shape:
            shapes = f"{tuple(outputs.shape)} and {tuple(self.reference.shape)}"
            raise ValueError(f"outputs and reference must have the same shape, got {shapes}")
        return (outputs.float() - self.reference.float()).square().flatten(1).sum(dim=1)


def unit_divergence(reference: Tensor, outputs: Tensor) -> Tensor:
    """KL divergence between softmaxes over the dimensions of unit embeddings, `KL(reference || outputs)`.

    Co-Attack (https://huggingface.co/papers/2206.09391) and MMCoA (https://huggingface.co/papers/2404.19287) measure
    with it how far two embeddings are apart, at temperature 1. Softmaxes of unit vectors of many dimensions are nearly
    flat, so values are small.

    Args:
        reference: `(N, D)`, of any length.
        outputs: `(N, D)`, of any length.

    Returns:
        `(N,)`, in nats, of the type of the inputs.

    Example:
        >>> one, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])
        >>> round(unit_divergence(one, other).item(), 4), unit_divergence(one, 3 * one).item()
        (0.4621, 0.0)
    """
    expected = torch.log_softmax(functional.normalize(reference, dim=-1), dim=-1)
    given = torch.log_softmax(functional.normalize(outputs, dim=-1), dim=-1)
    return (expected.exp() * (expected - given)).sum(dim=-1)


@dataclass(frozen=True, eq=False)
class JointDivergence(AttackLoss):
    """Divergence from the clean image's embedding and from the adversarial text's: the image loss of Co-Attack.

    `KL(image || outputs) + weight * KL(text || outputs)`, each between softmaxes over the dimensions of unit
    embeddings; see https://huggingface.co/papers/2206.09391, and MMCoA's joint attack, which takes it over
    (https://huggingface.co/papers/2404.19287). Papers and code differ in how they write the divergence; the order of
    its sides here is what the authors' code computes.

    Args:
        image: `(B, D)`, embeddings of the clean images.
        text: `(B, D)`, embeddings of the attacked captions, one per image.
        weight: Of the second term.

    Example:
        >>> image, text = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> round(JointDivergence(image, text, weight=2.0)(image).item(), 4)
        0.9242
    """

    image: Tensor
    text: Tensor
    weight: float = 3.0

    def __call__(self, outputs: Tensor) -> Tensor:
        """Weighted sum of the two divergences of embeddings `(B, D)`, `(B,)`."""
        features = outputs.float()
        from_image = unit_divergence(self.image.float(), features)
        return from_image + self.weight * unit_divergence(self.text.float(), features)


@dataclass(frozen=True, eq=False)
class SetDissimilarity(AttackLoss):
    """Minus the cosines between all views of an image and all its captions, summed: the image loss of SGA.

    See https://huggingface.co/papers/2307.14061. A sum over captions of cosines with one view is the
    inner product of the unit view with the sum of the unit captions, which is all that is kept of them.

    Args:
        captions: `(B, D)`, for each image the sum of the unit embeddings of its captions.

    Example:
        >>> views = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])
        >>> SetDissimilarity(torch.tensor([[1.5, 0.25]]))(views).tolist()
        [-1.75]
    """

    captions: Tensor

    def __call__(self, outputs: Tensor) -> Tensor:
        """Minus the sum of cosines of the embeddings `(B, V, D)` of V views of each image, `(B,)`."""
        views = functional.normalize(outputs.float(), dim=-1)
        return -(views * self.captions.float().unsqueeze(1)).sum(dim=(1, 2))


EMBEDDING_LOSSES: dict[str, type[AttackLoss]] = {
    "embedding_distance": EmbeddingDistance,
    "joint_divergence": JointDivergence,
}
