"""The pure mathematics that objectives share: tensors in, tensors out, no model."""

import torch
from torch import Tensor
from torch.nn import functional as F


def class_logits(image_features: Tensor, class_embeds: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Temperature-scaled cosines `(B, C)` between image features `(B, D)` and unit class embeddings `(C, D)`.

    >>> import torch
    >>> class_logits(torch.tensor([[3.0, 4.0]]), torch.eye(2), 10.0)
    tensor([[6., 8.]])
    """
    # Autocast would multiply in half precision, whose steps near a logit of 30 are an eighth.
    with torch.autocast(image_features.device.type, enabled=False):
        return logit_scale * F.normalize(image_features.float(), dim=-1) @ class_embeds.float().T


def info_nce(logits: Tensor, groups: Tensor, reduction: str = "mean") -> Tensor:
    """Symmetric image-text InfoNCE over a batch (CLIP, https://huggingface.co/papers/2103.00020, Figure 3).

    Pairs of one group are each other's positives: the target distribution of a row is uniform over its group. Where
    the captions of a group are the same to the letter this is CLIP's loss all the same, since equal captions share
    their probability; groups matter for captions that say the same in other words.

    Args:
        logits: `(B, B)`, image i against the caption of image j.
        groups: `(B,)` integer identity of each image's caption.
        reduction: `mean`, or `none` for each pair's share.

    Returns:
        Scalar, the mean of both directions; or `(B,)`, the mean of image i's and caption i's direction.

    >>> import torch
    >>> round(float(info_nce(torch.eye(2) * 2, torch.tensor([0, 1]))), 4)
    0.1269
    >>> round(float(info_nce(torch.eye(2) * 2, torch.tensor([0, 0]))), 4)
    1.1269
    """
    positives = (groups[:, None] == groups[None, :]).float()
    targets = positives / positives.sum(dim=1, keepdim=True)
    logits = logits.float()
    of_images = F.cross_entropy(logits, targets, reduction=reduction)
    return (of_images + F.cross_entropy(logits.T, targets, reduction=reduction)) / 2


def squared_distance(features: Tensor, reference: Tensor) -> Tensor:
    """Squared Euclidean distance `(N,)` of rows `(N, D)`, summed over dimensions, in fp32.

    >>> squared_distance(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
    tensor([25.])
    """
    return (features.float() - reference.float()).square().sum(dim=-1)


def kl_divergence(first: Tensor, second: Tensor) -> Tensor:
    """`KL(softmax(first) || softmax(second))` `(N,)` of rows of logits `(N, C)`, in nats, in fp32.

    >>> two, one = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    >>> kl_divergence(two, two).item(), round(kl_divergence(two, one).item(), 4)
    (0.0, 0.1201)
    """
    expected, given = torch.log_softmax(first.float(), dim=-1), torch.log_softmax(second.float(), dim=-1)
    return (expected.exp() * (expected - given)).sum(dim=-1)


def feature_distance(features: Tensor, reference: Tensor, normalize: bool) -> Tensor:
    """Euclidean distance of features `(B, D)` from `reference` `(B, D)`, not squared, `(B,)`, in fp32.

    Args:
        features: Image features of any length.
        reference: Features to compare with, of any length.
        normalize: Whether both have unit length first.

    >>> one, other = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    >>> feature_distance(one, other, False).item(), round(feature_distance(one, other, True).item(), 4)
    (5.0, 1.4142)
    """
    features, reference = features.float(), reference.float()
    if normalize:
        features, reference = F.normalize(features, dim=1), F.normalize(reference, dim=1)
    distance: Tensor = torch.linalg.vector_norm(features - reference, dim=1)
    return distance
