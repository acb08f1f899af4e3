"""From undecoded examples to batches of pixels in [0, 1]; runs in data-loading workers."""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

logger = logging.getLogger(__name__)

_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Augmentation:
    """Random crop, flip and brightness, drawn per image from (seed, epoch, index) and from nothing else.

    Args:
        min_scale: Smallest share of the image's area that a crop keeps, in (0, 1].
        flip: Whether to mirror half of the images; data sets of digits and signs are never mirrored.
        brightness: Largest relative change of brightness, in [0, 1).
    """

    min_scale: float = 0.5
    flip: bool = False
    brightness: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.min_scale <= 1 or not 0 <= self.brightness < 1:
            raise ValueError(f"min_scale must lie in (0, 1] and brightness in [0, 1), got {self}.")

    def __call__(self, image: Image.Image, size: int, may_flip: bool, random: np.random.Generator) -> Image.Image:
        """A crop of `image`, `size` pixels square."""
        area = random.uniform(self.min_scale, 1.0)
        ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)) / 2)
        side = min(image.size) * np.sqrt(area)
        width, height = min(side * ratio, image.width), min(side / ratio, image.height)
        left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
        crop = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        if self.flip and may_flip and random.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.brightness:
            factor = 1 + random.uniform(-self.brightness, self.brightness)
            crop = crop.point(lambda value: value * factor)
        return crop


@dataclass(frozen=True)
class PixelCollator:
    """Decodes images and stacks them.

    Args:
        image_size: Side of the model's input, in pixels.
        resolution: Grid that `pixels`, and so the perturbation, lives on. `native`: square images no larger than
            `image_size` keep their own grid. `model`: every image has the model's. Images that are resized follow
            CLIP's image processor: short side to `image_size`, bicubic in Pillow, centre crop.
        on_bad_image: `raise` stops at an unreadable image and names it; `skip` leaves it out and reports it.
        augmentation: Random crops for training; they live on the model's grid.
        seed: Seed of augmentation and of the choice of captions.

    Raises:
        ValueError: On an unknown `resolution` or `on_bad_image`, or augmentation on the native grid.
    """

    image_size: int
    resolution: str = "native"
    on_bad_image: str = "raise"
    augmentation: Augmentation | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resolution not in ("native", "model"):
            raise ValueError(f"resolution must be native or model, got {self.resolution!r}.")
        if self.on_bad_image not in ("raise", "skip"):
            raise ValueError(f"on_bad_image must be raise or skip, got {self.on_bad_image!r}.")
        if self.augmentation and self.resolution == "native":
            raise ValueError("Augmentation crops to the model's grid: set resolution to model.")

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Stacks `examples` of an `ImageDataset`.

        Returns:
            `pixels` `(B, 3, H, W)` float in [0, 1], `labels` `(B,)` (-1 where there are none), `index` `(B,)`,
            `skipped` (indices that could not be read) and, where the examples have captions, `texts` (B strings).
            B is smaller than the number of examples by those skipped, down to 0.

        Raises:
            ValueError: If an image cannot be read and is not to be skipped, or native grids differ within the batch.
        """
        arrays, kept, skipped = [], [], []
        for example in examples:
            try:
                arrays.append(self._decode(example))
                kept.append(example)
            except _UNREADABLE as error:
                if self.on_bad_image == "raise":
                    raise ValueError(
                        f"{example['source']}: the image cannot be read ({error}). Mend or drop it; of a data set, "
                        "on_bad_image skip leaves such images out."
                    ) from error
                logger.warning("%s: unreadable image skipped (%s)", example["source"], error)
                skipped.append(example["index"])
        batch: dict[str, Any] = {
            "pixels": self._stack(arrays, kept),
            "labels": torch.tensor([example["label"] for example in kept], dtype=torch.long),
            "index": torch.tensor([example["index"] for example in kept], dtype=torch.long),
            "skipped": skipped,
        }
        if kept and "captions" in kept[0]:
            batch["texts"] = self._captions(kept)
        return batch

    def _decode(self, example: dict[str, Any]) -> np.ndarray[Any, Any]:
        source = example["image"] or {"bytes": None, "path": None}
        data = source["path"] if source["bytes"] is None else io.BytesIO(source["bytes"])
        if data is None:
            raise ValueError("there is none")
        with Image.open(data) as file:
            image = _eight_bits(ImageOps.exif_transpose(file)).convert("RGB")
        if self.augmentation:
            random = np.random.default_rng((self.seed, example["epoch"], example["index"]))
            image = self.augmentation(image, self.image_size, example["may_flip"], random)
        elif self.resolution == "model" or image.width != image.height or image.width > self.image_size:
            image = resize_and_crop(image, self.image_size)
        return np.asarray(image)

    def _stack(self, arrays: list[np.ndarray[Any, Any]], kept: list[dict[str, Any]]) -> torch.Tensor:
        sizes = {array.shape[0] for array in arrays}
        if len(sizes) > 1:
            raise ValueError(
                f"{kept[0]['source']}: its batch has images of native sizes {sorted(sizes)}; set resolution to model."
            )
        if not arrays:
            return torch.empty(0, 3, self.image_size, self.image_size)
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255

    def _captions(self, kept: list[dict[str, Any]]) -> list[str]:
        # One draw for the whole batch, so that images of one class share one sentence and are positives of each other.
        draw = int(np.random.default_rng((self.seed, kept[0]["epoch"], kept[0]["index"])).integers(1 << 16))
        return [example["captions"][draw % len(example["captions"])] for example in kept]


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit greyscale scaled to 8 bits, which Pillow's own conversion may clip instead; anything else as it is."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """Short side to `size`, bicubic, then the central square, as CLIP's image processor does."""
    if image.size != (size, size):
        short = min(image.size)
        width, height = (int(size * side / short) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return image
