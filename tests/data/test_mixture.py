"""Several data sets as one."""

import pytest

from robust_clip.data import ImageDataset, Mixture, PixelCollator
from tests.conftest import coloured_rows


@pytest.fixture
def sources():
    return [ImageDataset(coloured_rows(n, seed=n), name=f"set{n}") for n in (3, 5)]


def test_each_source_is_seen_as_often_as_asked(sources):
    mixture = Mixture(sources, [2, 1])
    assert len(mixture) == 2 * 3 + 5
    rows = [mixture[index]["source"] for index in range(len(mixture))]
    assert rows[:6] == [f"set3/train row {row}" for row in (0, 1, 2)] * 2
    assert rows[6:] == [f"set5/train row {row}" for row in range(5)]


def test_indices_are_unique_over_the_whole(sources):
    mixture = Mixture(sources, [2, 1])
    assert [mixture[index]["index"] for index in range(len(mixture))] == list(range(11))
    assert mixture[0]["image"] == mixture[3]["image"]


def test_a_bad_image_is_named_by_its_own_data_set_and_row(sources):
    example = Mixture(sources, [2, 1])[8]
    example["image"] = {"bytes": b"broken", "path": None}
    with pytest.raises(ValueError, match="^set5/train row 2: the image cannot be read"):
        PixelCollator(16)([example])


def test_the_epoch_reaches_every_source(sources):
    mixture = Mixture(sources, [2, 1])
    mixture.set_epoch(4)
    assert {mixture[index]["epoch"] for index in range(len(mixture))} == {4}


@pytest.mark.parametrize("repeats", [[1], [1, 0], [1, -1], [1, 2, 3], [1, 1.5], [1, "2"]])
def test_bad_repeats_are_refused(sources, repeats):
    with pytest.raises(ValueError, match="whole number of repeats, at least 1; got 2 data sets and repeats"):
        Mixture(sources, repeats)


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(ValueError, match="got 0 data sets"):
        Mixture([], [])
