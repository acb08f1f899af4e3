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
