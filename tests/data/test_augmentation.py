"""Random crops that depend on (seed, epoch, index) and on nothing else."""

import numpy as np
import pytest
import torch
from PIL import Image

from robust_clip.data import Augmentation, PixelCollator
from tests.data.conftest import picture


@pytest.fixture
def collate():
    """Function that collates under a seed."""

    def run(examples, seed=0, **settings):
        augmentation = Augmentation(**{"min_scale": 0.3, "flip": True, "brightness": 0.3, **settings})
        return PixelCollator(16, "model", augmentation=augmentation, seed=seed)(examples)["pixels"]

    return run


def test_an_image_is_augmented_alike_in_any_batch(collate, example):
    examples = [example(picture(20, seed=index), index=index) for index in range(4)]
    together = collate(examples)
    torch.rand(3)
    np.random.default_rng(1).random(3)
    for index in (2, 0, 3, 1):
        assert torch.equal(collate([examples[index]])[0], together[index])


@pytest.mark.parametrize("change", [{"index": 1}, {"epoch": 1}, {"seed": 1}], ids=lambda change: next(iter(change)))
def test_row_epoch_and_seed_each_change_it(collate, example, change):
    seed = change.pop("seed", 0)
    image = picture(20)
    assert not torch.equal(collate([example(image, **change)], seed=seed), collate([example(image)]))


def ramp(width, height):
    """Red grows to the right, green downwards: where a crop was taken can be read off its pixels."""
    across, down = np.linspace(0, 255, width), np.linspace(0, 255, height)
    red, green = np.meshgrid(across, down)
    return Image.fromarray(np.stack([red, green, np.zeros_like(red)], axis=-1).astype(np.uint8))


def extent(crop):
    """Width and height of a crop of a ramp, as shares of the whole: 16 pixels span 15 steps."""
    red, green = crop[0].mean(dim=0), crop[1].mean(dim=1)
    return (red[-3] - red[2]).abs() / 11 * 16, (green[-3] - green[2]).abs() / 11 * 16


def test_crops_keep_at_least_the_share_asked_for(collate, example):
    crops = [collate([example(ramp(256, 256), i)], min_scale=0.25, brightness=0)[0] for i in range(60)]
    areas = torch.stack([width * height for width, height in map(extent, crops)])
    assert areas.min() > 0.25 * 0.9
    assert areas.min() < 0.4
    assert areas.max() > 0.85


def test_a_whole_crop_is_the_image_but_for_its_shape(collate, example):
    """With `min_scale` 1 only the aspect ratio varies, within the image."""
    for index in range(20):
        width, height = extent(collate([example(ramp(256, 256), index)], min_scale=1, brightness=0, flip=False)[0])
        assert max(width, height) == pytest.approx(1, abs=0.03)
        assert min(width, height) > (3 / 4) ** 0.5 - 0.03


def test_half_are_mirrored_and_none_that_may_not_be(collate, example):
    def mirrored(**settings):
        may_flip = settings.pop("may_flip", True)
        crops = collate([example(ramp(64, 64), i, may_flip=may_flip) for i in range(100)], brightness=0, **settings)
        return sum(bool(crop[0, 8, 0] > crop[0, 8, -1]) for crop in crops)

    assert 30 < mirrored() < 70
    assert mirrored(may_flip=False) == 0
    assert mirrored(flip=False) == 0


def test_brightness_changes_within_its_bounds_and_does_not_wrap(collate, example):
    grey = Image.new("RGB", (20, 20), (100, 100, 100))
    levels = torch.stack([collate([example(grey, i)], brightness=0.2)[0, 0, 0, 0] * 255 for i in range(50)])
    assert levels.min() >= 80 - 1
    assert levels.max() <= 120 + 1
    assert levels.max() - levels.min() > 25
    white = Image.new("RGB", (20, 20), (255, 255, 255))
    assert collate([example(white, i) for i in range(20)], brightness=0.2).min() > 0.79


@pytest.mark.parametrize("size", [(3, 200), (200, 3), (1, 1), (5, 5)])
def test_odd_sizes_can_be_augmented(collate, example, size):
    assert collate([example(picture(*size), i) for i in range(10)]).shape == (10, 3, 16, 16)


@pytest.mark.parametrize("settings", [{"min_scale": 0}, {"min_scale": 1.5}, {"brightness": 1}, {"brightness": -0.1}])
def test_bad_strengths_are_refused(settings):
    with pytest.raises(ValueError, match=r"min_scale must lie in \(0, 1\] and brightness in \[0, 1\)"):
        Augmentation(**settings)
