"""Which images of a data set a protocol measures."""

import re
from functools import cache
from importlib.resources import files

import pyarrow.compute as pc

from robust_clip.data import ImageDataset

from .protocol import Protocol

# ImageNet's validation images are called ILSVRC2012_val_00000001.JPEG and so on, in every copy that keeps their names.
_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")


def choose_rows(protocol: Protocol, dataset: ImageDataset, seed: int) -> tuple[list[int], list[str]]:
    """Rows of the images to measure, and a sentence for each way in which they are not the protocol's.

    Args:
        protocol: With a number and a choice of samples.
        dataset: To choose from.
        seed: Of images that are drawn.

    Returns:
        Ascending rows, and at most one sentence: where RobustBench's list is asked for and the files of the data set
        have other names, as many images are drawn by the seed in their stead.
    """
    drawn = protocol.choose(len(dataset), seed)
    if protocol.sample_choice != "robustbench":
        return drawn, []
    listed = robustbench_images()[: protocol.samples]
    row_of = {number: row for row, number in enumerate(_numbers(dataset)) if number is not None}
    found = sorted(row_of[number] for number in listed if number in row_of)
    if len(found) == len(listed):
        return found, []
    return drawn, [
        f"{len(drawn)} images drawn by the seed in place of RobustBench's: of its {len(listed)}, {len(found)} were "
        f"found by their file names in {dataset.name}, ILSVRC2012_val_00000011.JPEG and so on"
    ]


@cache
def robustbench_images() -> tuple[int, ...]:
    """Numbers of the 5000 validation images of ImageNet that RobustBench measures on, in its order.

    https://huggingface.co/papers/2010.09670; the list is that of the package `robustbench` 1.1.1.
    """
    return tuple(map(int, files(__package__).joinpath("robustbench_imagenet.txt").read_text().split()))


def _numbers(dataset: ImageDataset) -> list[int | None]:
    """The number in the name of each image's file, without reading the images."""
    # In the format of Arrow a slice is a view of the file; the bytes of the images in it stay on the disk.
    tables = dataset.rows.select_columns([dataset.image_column]).with_format("arrow").iter(batch_size=1000)
    paths = (path for table in tables for path in pc.struct_field(table[dataset.image_column], "path").to_pylist())
    matches = (_NAME.search(path or "") for path in paths)
    return [int(match[1]) if match else None for match in matches]
