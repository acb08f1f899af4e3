"""Few shots of each class, and the part held out for choosing hyper-parameters."""

from collections import Counter

import numpy as np
import pytest

from robust_clip.data import DataSource, ImageDataset
from robust_clip.data.selection import few_shot, held_out
from tests.conftest import coloured_rows


@pytest.fixture
def dataset():
    """Fifty images: 17, 17 and 16 of three classes."""
    return ImageDataset(coloured_rows(50), name="coloured", split="train")


def contents(dataset):
    return [(example["image"]["bytes"], example["label"]) for example in map(dataset.__getitem__, range(len(dataset)))]


def test_few_shots_are_so_many_of_each_class(dataset):
    few = few_shot(dataset, 4)
    assert Counter(few.labels.tolist()) == {0: 4, 1: 4, 2: 4}
    assert set(contents(few)) < set(contents(dataset))
    assert [few[row]["index"] for row in range(12)] == list(range(12))
    assert few.split == "train[4 per class, seed 0]"
    assert few.revision != dataset.revision
    assert contents(few_shot(dataset, 4)) == contents(few)
    assert contents(few_shot(dataset, 4, seed=1)) != contents(few)


def test_more_shots_contain_the_fewer(dataset):
    assert set(contents(few_shot(dataset, 3))) < set(contents(few_shot(dataset, 9)))


def test_parts_are_the_whole_and_share_nothing(dataset):
    fit, validation = held_out(dataset, "fit"), held_out(dataset, "validation")
    assert Counter(validation.labels.tolist()) == {0: 2, 1: 2, 2: 2}
    assert not set(contents(fit)) & set(contents(validation))
    assert sorted(contents(fit) + contents(validation)) == sorted(contents(dataset))
    assert (fit.split, validation.split) == ("train:fit", "train:validation")


def test_recipes_name_both(coloured_folder):
    source = DataSource(str(coloured_folder), split="train:fit", per_class=5)
    assert source.load().split == "train:fit[5 per class, seed 0]"
    assert len(DataSource(str(coloured_folder), split="train:validation").load()) == 6


def test_what_cannot_be_chosen_is_refused(dataset, coloured_folder):
    with pytest.raises(ValueError, match="at least 1"):
        few_shot(dataset, 0)
    with pytest.raises(ValueError, match="16 images of 'blue', below 17"):
        few_shot(dataset, 17)
    with pytest.raises(ValueError, match="known: fit, validation"):
        DataSource(str(coloured_folder), split="train:test").load()
    captioned = ImageDataset(coloured_rows(6).remove_columns("label").add_column("text", ["a"] * 6), name="captioned")
    with pytest.raises(ValueError, match="captions, not classes"):
        held_out(captioned, "fit")
    with pytest.raises(ValueError, match="too few images"):
        held_out(dataset.select(np.array([0]), "one"), "fit")
