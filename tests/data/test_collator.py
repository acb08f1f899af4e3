"""From undecoded images of every kind to pixels."""

import logging
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from robust_clip.data import Augmentation, PixelCollator
from tests.data.conftest import encoded, picture

TRUNCATED = {"bytes": encoded(picture())["bytes"][:200], "path": None}
UNREADABLE = {
    "truncated PNG": TRUNCATED,
    "truncated JPEG": {"bytes": encoded(picture(64), format="JPEG")["bytes"][:900], "path": None},
    "no image at all": {"bytes": b"<html>404</html>", "path": None},
    "empty": {"bytes": b"", "path": None},
    "missing file": {"bytes": None, "path": "/nowhere/image.png"},
    "neither bytes nor path": {"bytes": None, "path": None},
    "null": None,
}


def as_tensor(image):
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def test_a_batch_has_pixels_labels_and_rows(example):
    images = [picture(seed=seed) for seed in range(3)]
    batch = PixelCollator(16)([example(image, index=10 + i, label=i) for i, image in enumerate(images)])
    assert torch.equal(batch["pixels"], torch.stack([as_tensor(image) for image in images]))
    assert batch["labels"].tolist() == [0, 1, 2]
    assert batch["index"].tolist() == [10, 11, 12]
    assert batch["labels"].dtype == batch["index"].dtype == torch.long
    assert batch["skipped"] == []
    assert "texts" not in batch


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_three_channels(example, mode):
    image = picture(mode=mode)
    cell = encoded(image, format="TIFF" if mode == "CMYK" else "PNG")
    batch = PixelCollator(16)([example(cell)])
    assert torch.equal(batch["pixels"][0], as_tensor(image))
    assert batch["pixels"].shape == (1, 3, 16, 16)


def test_sixteen_bits_are_scaled_to_eight(example):
    values = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    pixels = PixelCollator(16)([example(encoded(Image.fromarray(values)))])["pixels"]
    assert torch.equal(pixels[0], torch.arange(256).view(1, 16, 16).expand(3, -1, -1) / 255)


def test_a_file_is_read_from_its_path(example, tmp_path):
    picture().save(tmp_path / "a.png")
    batch = PixelCollator(16)([example({"bytes": None, "path": str(tmp_path / "a.png")})])
    assert torch.equal(batch["pixels"][0], as_tensor(picture()))


def test_photos_are_turned_as_their_camera_says(example):
    """EXIF orientation 6: the stored image is to be shown turned clockwise, as `datasets` and the pipelines do."""
    exif = Image.Exif()
    exif[0x0112] = 6
    batch = PixelCollator(16)([example(encoded(picture(), exif=exif))])
    assert torch.equal(batch["pixels"][0], as_tensor(picture().rotate(-90)))


@pytest.mark.parametrize(("side", "grid"), [(5, 5), (15, 15), (16, 16), (17, 16), (40, 16)])
def test_small_squares_keep_their_own_grid(example, side, grid):
    pixels = PixelCollator(16, resolution="native")([example(picture(side))])["pixels"]
    assert pixels.shape == (1, 3, grid, grid)
    if side == grid:
        assert torch.equal(pixels[0], as_tensor(picture(side)))


SIZES = [(5, 5), (16, 16), (17, 16), (16, 17), (40, 23), (23, 40), (9, 200), (3, 7), (1, 1)]
OWN_GRID = [((5, 5), "native"), ((1, 1), "native")]


@pytest.mark.parametrize(
    ("size", "resolution"), [case for case in product(SIZES, ("native", "model")) if case not in OWN_GRID]
)
def test_all_else_is_resized_and_cropped_as_clips_processor_does(example, tiny_processor, size, resolution):
    image = picture(*size)
    pixels = PixelCollator(16, resolution)([example(image)])["pixels"]
    processor = tiny_processor.image_processor
    expected = processor(image, do_normalize=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


def test_native_grids_cannot_be_mixed_in_a_batch(example):
    examples = [example(picture(8)), example(picture(12), index=1)]
    with pytest.raises(ValueError, match=r"pictures/test row 0.*native sizes \[8, 12\]; set resolution to model"):
        PixelCollator(16)(examples)
    assert PixelCollator(16, "model")(examples)["pixels"].shape == (2, 3, 16, 16)


@pytest.mark.parametrize("cell", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_image_stops_the_run_and_is_named(example, cell):
    examples = [example(picture()), example(cell, index=417), example(picture(), index=2)]
    with pytest.raises(ValueError, match="^pictures/test row 417: the image cannot be read .*on_bad_image skip"):
        PixelCollator(16)(examples)


@pytest.mark.parametrize("cell", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_image_can_be_skipped_and_is_reported(example, cell, caplog):
    examples = [
        example(picture(), label=1),
        example(cell, index=417),
        example(picture(8).resize((16, 16)), 2, label=2),
    ]
    with caplog.at_level(logging.WARNING):
        batch = PixelCollator(16, on_bad_image="skip")(examples)
    assert batch["skipped"] == [417]
    assert batch["index"].tolist() == [0, 2]
    assert batch["labels"].tolist() == [1, 2]
    assert len(batch["pixels"]) == 2
    assert "pictures/test row 417" in caplog.text


def test_a_batch_may_lose_all_its_images(example):
    batch = PixelCollator(16, on_bad_image="skip")([example(TRUNCATED, index=index) for index in range(2)])
    assert batch["skipped"] == [0, 1]
    assert batch["pixels"].shape == (0, 3, 16, 16)
    assert batch["labels"].shape == batch["index"].shape == (0,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": "nativ"}, "resolution must be native or model, got 'nativ'"),
        ({"on_bad_image": "ignore"}, "on_bad_image must be raise or skip, got 'ignore'"),
        ({"augmentation": Augmentation()}, "set resolution to model"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PixelCollator(16, **settings)


def test_images_of_one_class_share_a_caption_within_a_batch(example):
    """Else images of one class would be negatives of each other under different wordings."""
    collate = PixelCollator(16)
    captions = {name: tuple(f"{verb} a {name}" for verb in ("see", "draw", "take")) for name in ("cat", "dog")}
    seen = set()
    for epoch in range(12):
        examples = [example(picture(), i, captions=captions[name], epoch=epoch) for i, name in enumerate(captions)]
        texts = collate(examples)["texts"]
        assert texts == collate(examples)["texts"]
        assert texts[0].replace("cat", "dog") == texts[1]
        seen.add(texts[0])
    assert seen == set(captions["cat"])
