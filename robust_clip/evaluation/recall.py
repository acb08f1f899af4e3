"""How many queries find what belongs to them: ranks, and recall at k with its interval."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .metrics import wilson_interval

CUTOFFS = (1, 5, 10)
DIRECTIONS = ("image_to_text", "text_to_image")

# Queries whose similarities with the whole gallery are in memory at once.
_QUERIES = 256


def retrieval_ranks(images: Tensor, captions: Tensor, image_of: Tensor) -> dict[str, Tensor]:
    """How many wrong entries of the gallery stand before the right one, for every query in both directions.

    An image has found its captions where the best of them is, as papers count with several captions per image; a
    caption has found its image where that is. Similarity is the cosine. Ties never help: a wrong entry as similar as
    the right one stands before it. So captions with the same text that belong to different images hinder each other,
    and a model that embeds everything alike finds nothing.

    Args:
        images: `(n, D)`, features of any length.
        captions: `(N, D)`, features of any length.
        image_of: `(N,)`, the image that each caption belongs to; each image has at least one.

    Returns:
        `image_to_text`, `(n,)`, and `text_to_image`, `(N,)`, integers from 0.

    Raises:
        FloatingPointError: If a feature is not finite.

    Example:
        >>> images, captions = torch.eye(2), torch.tensor([[1.0, 0.0], [0.5, 0.6], [0.9, 0.1]])
        >>> ranks = retrieval_ranks(images, captions, torch.tensor([0, 1, 1]))
        >>> ranks["image_to_text"].tolist(), ranks["text_to_image"].tolist()
        ([0, 0], [0, 0, 1])
    """
    images, captions, image_of = _units(images, "image"), _units(captions, "caption"), image_of.cpu()
    return {
        "image_to_text": _ranks_of_sets(images, captions, image_of),
        "text_to_image": _ranks_of_targets(captions, images, image_of),
    }


def recalls(ranks: Tensor) -> dict[str, dict[str, Any]]:
    """Recall at 1, 5 and 10, each with its 95 % Wilson interval, which takes queries as independent of each other.

    Args:
        ranks: `(Q,)`, wrong entries before the right one.

    Example:
        >>> recalls(torch.tensor([0, 3, 7, 40]))["R@5"]["recall"]
        0.5
    """
    found = {}
    for cutoff in CUTOFFS:
        hits = int((ranks < cutoff).sum())
        found[f"R@{cutoff}"] = {"recall": hits / len(ranks), "interval": list(wilson_interval(hits, len(ranks)))}
    return found


def _units(features: Tensor, name: str) -> Tensor:
    """Unit rows on the CPU, in float64."""
    if bad := (~features.isfinite().all(dim=1)).nonzero().flatten().tolist():
        raise FloatingPointError(f"features of {len(bad)} {name}s are not finite, the first is number {bad[0]}")
    return functional.normalize(features.detach().cpu().double(), dim=-1)


def _ranks_of_sets(images: Tensor, captions: Tensor, image_of: Tensor) -> Tensor:
    """Of each image, the captions of others that are at least as similar as the best of its own."""
    found = []
    for rows in torch.arange(len(images)).split(_QUERIES):
        similar, own = _similarities(images[rows], captions), image_of == rows.unsqueeze(1)
        best = similar.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
        found.append(((similar >= best) & ~own).sum(dim=1))
    return torch.cat(found)


def _ranks_of_targets(captions: Tensor, images: Tensor, image_of: Tensor) -> Tensor:
    """Of each caption, the other images that are at least as similar as its own."""
    found = []
    for rows, targets in zip(captions.split(_QUERIES), image_of.split(_QUERIES), strict=True):
        similar = _similarities(rows, images)
        found.append((similar >= similar.gather(1, targets.unsqueeze(1))).sum(dim=1) - 1)
    return torch.cat(found)


def _similarities(queries: Tensor, gallery: Tensor) -> Tensor:
    # A matrix product may round equal rows differently, depending on where they lie. Rounded once more they tie.
    return (queries @ gallery.T).float()


def caption_owners(captions: Sequence[Sequence[str]]) -> Tensor:
    """The image that each caption belongs to, `(N,)`, for the captions of n images.

    >>> caption_owners([["a dog"], ["a cat", "cats"]]).tolist()
    [0, 1, 1]
    """
    return torch.arange(len(captions)).repeat_interleave(torch.tensor([len(texts) for texts in captions]))
