"""RobustBench's images are found by the names of their files, wherever these are kept."""

from dataclasses import replace

import datasets
import numpy as np
import pytest
from PIL import Image

from robust_clip.data import ImageDataset
from robust_clip.evaluation import get_protocol
from robust_clip.evaluation.sampling import choose_rows, robustbench_images

PROTOCOL = get_protocol("robustbench_imagenet", samples=3)


def named_images(names):
    """A data set of tiny images whose files are called so."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    encoded = datasets.Image().encode_example(Image.fromarray(np.zeros((2, 2, 3), np.uint8)))["bytes"]
    columns = {"image": [{"bytes": encoded, "path": name} for name in names], "label": [0, 1] * (len(names) // 2)}
    return ImageDataset(datasets.Dataset.from_dict(columns, features=features), name="imagenet", split="test")


def file_name(number):
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def test_the_list_is_robustbenchs():
    listed = robustbench_images()
    assert len(set(listed)) == len(listed) == 5000
    assert min(listed) >= 1
    assert max(listed) <= 50000
    assert listed[:4] == (15253, 20685, 39611, 4059)


def test_images_are_found_by_their_names_in_any_order():
    first = robustbench_images()[:4]
    others = [number for number in range(1, 6) if number not in robustbench_images()]
    names = [file_name(number) for number in (others[0], first[2], first[3], first[0], first[1])]
    images = named_images(["n01440764/" + names[0], *names[1:3], "/val/" + names[3], names[4], "photo.jpg"])
    assert choose_rows(PROTOCOL, images, seed=0) == ([1, 3, 4], [])
    assert choose_rows(replace(PROTOCOL, samples=4), images, seed=0) == ([1, 2, 3, 4], [])
    chosen = images.rows.select([5, 4, 3, 2, 1])
    reversed_images = ImageDataset(chosen, name="imagenet", split="test")
    assert choose_rows(PROTOCOL, reversed_images, seed=0) == ([1, 2, 4], [])


@pytest.mark.parametrize("names", [[None] * 6, ["s0000001.jpg", *map(file_name, robustbench_images()[:2]), *"abc"]])
def test_images_that_are_not_found_are_drawn_and_the_row_says_so(names):
    images = named_images(names)
    rows, (note,) = choose_rows(PROTOCOL, images, seed=3)
    assert rows == replace(PROTOCOL, sample_choice="random").choose(6, seed=3)
    found = sum("ILSVRC" in (name or "") for name in names)
    assert f"3 images drawn by the seed in place of RobustBench's: of its 3, {found} were found" in note


def test_other_protocols_choose_for_themselves():
    for choice in ("random", "first"):
        protocol = replace(PROTOCOL, sample_choice=choice)
        assert choose_rows(protocol, named_images([None] * 6), seed=1) == (protocol.choose(6, seed=1), [])
