"""An image at several scales, as SGA attacks it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robust_clip.attacks.base import Forward


@dataclass(frozen=True, eq=False)
class ScaledViews:
    """Features of images and of noisy copies that were resized and brought back to their size.

    Args:
        encode_image: Gives features `(B, D)` of pixels.
        scales: One for each copy.
        noise: Standard deviation of the noise that is added before resizing, drawn anew at each call.
        generators: One CPU generator per image.
    """

    encode_image: Forward
    scales: Sequence[float]
    noise: float
    generators: Sequence[torch.Generator]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Features `(B, 1 + scales, D)` of images `(B, 3, H, W)`, the images themselves first."""
        if len(pixels) != len(self.generators):
            raise ValueError(
                f"views of {len(pixels)} images were asked for and there are {len(self.generators)}: the image attack "
                "of SGA must work on all images at every step"
            )
        views = [pixels]
        for scale in self.scales:
            copies = pixels
            if self.noise:
                draws = [torch.randn(pixels.shape[1:], generator=generator) for generator in self.generators]
                copies = pixels + self.noise * torch.stack(draws).to(pixels)
            height, width = (max(1, int(scale * side)) for side in pixels.shape[2:])
            scaled = functional.interpolate(copies, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)
            views.append(functional.interpolate(scaled, pixels.shape[2:], mode="bicubic", align_corners=False))
        features = self.encode_image(torch.cat(views))
        return features.reshape(len(views), len(pixels), -1).transpose(0, 1)
