"""What identifies the images and labels that were measured."""

import hashlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np


def rows_revision(rows: datasets.Dataset, image_column: str, labels: np.ndarray[Any, Any] | None) -> str:
    """Revision of a split: `sha256:` and a digest of its undecoded images and its labels, in their order.

    Where the files lie, when they were written and how they are packed does not matter. An image that is missing
    counts as an empty one.

    Args:
        rows: Rows whose image column is not decoded.
        image_column: Name of that column.
        labels: `(N,)`, or `None` for data without classes.
    """
    digest = hashlib.sha256()
    for batch in rows.with_format("arrow").iter(batch_size=1000):
        for image in batch[image_column].to_pylist():
            digest.update(hashlib.sha256(_content(image)).digest())
    if labels is not None:
        digest.update(labels.astype("<i8").tobytes())
    return f"sha256:{digest.hexdigest()}"


def _content(image: dict[str, Any] | None) -> bytes:
    if image and image["bytes"] is not None:
        return bytes(image["bytes"])
    file = Path(image["path"]) if image and image["path"] else None
    return file.read_bytes() if file and file.is_file() else b""
