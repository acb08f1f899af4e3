"""Scikit-learn's handwritten digits: 1,797 real 8x8 images that come with an installed package."""

import io
from typing import Any

import datasets
import numpy as np
from PIL import Image


def load_digits(split: str) -> datasets.Dataset:
    """The UCI test digits in scikit-learn, every third image held out as `test`.

    Args:
        split: `train` or `test`.

    Raises:
        ValueError: If the split is not `train` or `test`.
        ImportError: If scikit-learn is not installed.
    """
    if split not in ("train", "test"):
        raise ValueError(f"digits has no split {split!r}; it has train, test.")
    try:
        from sklearn.datasets import load_digits as read
    except ImportError as error:
        raise ImportError("The digits come with scikit-learn: pip install 'robust-clip[quickstart]'.") from error
    images, labels = read(return_X_y=True)
    held_out = np.arange(len(labels)) % 3 == 0
    kept = np.flatnonzero(held_out == (split == "test"))
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)])}
    )
    columns = {"image": [_png(images[row]) for row in kept], "label": labels[kept]}
    return datasets.Dataset.from_dict(columns, features=features)


def _png(intensities: np.ndarray[Any, Any]) -> dict[str, bytes | None]:
    pixels = np.round(intensities.reshape(8, 8) * (255 / 16)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}
