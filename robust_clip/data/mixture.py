"""Several data sets as one, each seen a chosen number of times an epoch."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import ConcatDataset

from .images import ImageDataset


class Mixture(ConcatDataset):  # type: ignore[type-arg]
    """Image-caption data sets joined, each repeated `repeats` times; an image's index is unique over the whole.

    Args:
        sources: The data sets, in a fixed order.
        repeats: How often each is seen in one epoch, positive.

    Raises:
        ValueError: If there are no sources, or the numbers of sources and repeats differ, or a repeat is not a
            positive whole number.
    """

    def __init__(self, sources: Sequence[ImageDataset], repeats: Sequence[int]) -> None:
        counts = [times for times in repeats if isinstance(times, int) and times > 0]
        if not sources or not len(sources) == len(repeats) == len(counts):
            raise ValueError(
                f"Each data set needs a whole number of repeats, at least 1; got {len(sources)} data sets and repeats "
                f"{list(repeats)}."
            )
        self.sources = list(sources)
        super().__init__([source for source, times in zip(sources, repeats, strict=True) for _ in range(times)])

    def __getitem__(self, index: int) -> dict[str, Any]:
        example: dict[str, Any] = super().__getitem__(index)  # type: ignore[no-untyped-call]
        return example | {"index": int(index)}

    def set_epoch(self, epoch: int) -> None:
        """Passes the epoch on to every source."""
        for source in self.sources:
            source.set_epoch(epoch)
