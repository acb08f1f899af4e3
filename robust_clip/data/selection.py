"""Parts of a data set by class: few shots of each, and images held out for choosing hyper-parameters."""

from typing import Any

import numpy as np

from .images import ImageDataset

_EVERY = 10


def few_shot(dataset: ImageDataset, per_class: int, seed: int = 0) -> ImageDataset:
    """So many images of each class, in their old order.

    Args:
        dataset: With classes.
        per_class: Images of each class.
        seed: That they are drawn by.

    Raises:
        ValueError: If `per_class` is below 1, there are no classes, or a class has fewer images.
    """
    if per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {per_class}.")
    kept = []
    for label, rows in enumerate(_rows_of_classes(dataset)):
        if len(rows) < per_class:
            name = (dataset.class_names or [])[label]
            raise ValueError(f"{dataset.name}/{dataset.split} has {len(rows)} images of {name!r}, below {per_class}.")
        kept.append(np.random.default_rng([seed, label]).permutation(rows)[:per_class])
    return dataset.select(np.sort(np.concatenate(kept)), f"{dataset.split}[{per_class} per class, seed {seed}]")


def held_out(dataset: ImageDataset, part: str) -> ImageDataset:
    """One of two parts: `validation`, every tenth image of each class beginning with its first, or `fit`, the rest.

    Args:
        dataset: With classes.
        part: Which.

    Raises:
        ValueError: If the part is unknown or empty, or there are no classes.
    """
    if part not in ("fit", "validation"):
        raise ValueError(f"{dataset.name}: unknown part {part!r} of {dataset.split}; known: fit, validation.")
    kept = np.sort(np.concatenate([rows[::_EVERY] for rows in _rows_of_classes(dataset)]))
    if part == "fit":
        kept = np.setdiff1d(np.arange(len(dataset)), kept)
    if not len(kept):
        raise ValueError(f"{dataset.name}/{dataset.split} has too few images for a part {part!r}.")
    return dataset.select(kept, f"{dataset.split}:{part}")


def _rows_of_classes(dataset: ImageDataset) -> list[np.ndarray[Any, Any]]:
    if dataset.labels is None:
        raise ValueError(f"{dataset.name} has captions, not classes, so no images can be chosen by class.")
    return [np.flatnonzero(dataset.labels == label) for label in range(len(dataset.class_names or ()))]
