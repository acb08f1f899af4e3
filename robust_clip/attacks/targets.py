"""Which wrong classes a targeted attack aims at."""

import torch
from torch import Tensor


def rank_wrong_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """The wrong classes of each image, most likely first; of equal classes the one with the lower number is first.

    Args:
        logits: Of the clean images, `(B, C)`. The label's need not be the largest: a model that draws lots may have
            given another class the lead by chance.
        labels: `(B,)`.

    Returns:
        `(B, C - 1)`.

    Example:
        >>> rank_wrong_classes(torch.tensor([[1.0, 5.0, 5.0, 3.0]]), torch.tensor([1])).tolist()
        [[2, 3, 0]]
    """
    first = logits.scatter(1, labels.unsqueeze(1), torch.inf)
    return first.argsort(dim=1, descending=True, stable=True)[:, 1:]


def side_by_side(targets: int, standing: int, batch_size: int | None, *, draws: bool) -> int:
    """How many targets to search for at once: as many as fill a batch, so that few survivors do not leave it empty.

    They find what searches one after the other would find, unless these draw lots that depend on their order.

    Args:
        targets: That are left to be tried.
        standing: Samples that are left.
        batch_size: Most samples in one forward pass; without one there is nothing to fill.
        draws: Whether searches draw several starts, or gradients of a model that draws lots: then one at a time, or a
            sample's end would depend on how many others stand.

    Example:
        >>> [side_by_side(targets, standing, 64, draws=False) for targets, standing in ((9, 14), (2, 14), (9, 60))]
        [4, 2, 1]
    """
    return 1 if draws else max(1, min(targets, (batch_size or 0) // standing))


def first_fooled(fooled: Tensor, otherwise: Tensor | int) -> Tensor:
    """Which of K searches beside each other gives a sample its image, `(B,)`.

    Args:
        fooled: `(K, B)`.
        otherwise: Of the samples that none fooled, `(B,)`.
    """
    return torch.where(fooled.any(dim=0), fooled.int().argmax(dim=0), otherwise)
