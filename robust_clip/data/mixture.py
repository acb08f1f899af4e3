"""Several data sets as one, each seen a chosen number of times an epoch."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import ConcatDataset

from .datasets import ImageDataset


class Mixture(ConcatDataset):  # type: ignore[type-arg]
    """Image-caption data sets joined, each repeated `repeats` times; an image's index is unique over the whole.

    Args:
        sources: The data sets, in a fixed order.
        repeats: How often each is seen in one epoch, positive.

    Raises:
        ValueError: If there are no sources, or the numbers of sources and repeats differ, or a repeat is not positive.
    """

    def __init__(self, sources: Sequence[ImageDataset], repeats: Sequence[int]) -> None:
        if not sources or len(sources) != len(repeats) or min(repeats) < 1:
            raise ValueError(f"Need one positive repeat per source, got {len(sources)} sources and {list(repeats)}.")
        self.sources = list(sources)
        super().__init__([source for source, times in zip(sources, repeats, strict=True) for _ in range(times)])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return super().__getitem__(index) | {"index": index}

    def set_epoch(self, epoch: int) -> None:
        """Passes the epoch on to every source."""
        for source in self.sources:
            source.set_epoch(epoch)
