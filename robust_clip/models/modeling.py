"""CLIP that is handed pixels in [0, 1], so that an attack can differentiate through all that comes after them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from .configuration import RobustCLIPConfig

# Names of CLIP's parts by tower; the temperature belongs to neither.
TOWERS = {"vision": ("vision_model", "visual_projection"), "text": ("text_model", "text_projection")}


class RobustCLIPModel(CLIPModel):
    """A `CLIPModel` whose resizing and normalising are part of the differentiable forward pass.

    The weights, their names and the saved directory are those of stock CLIP: `CLIPModel.from_pretrained(directory)`
    loads what this class saves, and this class loads any stock CLIP checkpoint.
    """

    config_class = RobustCLIPConfig
    config: RobustCLIPConfig

    @property
    def image_size(self) -> int:
        """Side of the square that the vision tower takes, in pixels."""
        size = self.config.vision_config.image_size
        return size if isinstance(size, int) else size[0]  # type: ignore[index]  # only a model without size has None

    def preprocess(self, pixels: Tensor) -> Tensor:
        """Resizes `pixels` to the tower's input and normalises them, differentiably.

        This is what Pillow computes, hence what the checkpoint's image processor does, up to Pillow's rounding to 8
        bits: bicubic with antialiasing, first along rows, then along columns, and each result clipped to [0, 1], since
        bicubic interpolation overshoots beside edges.

        Args:
            pixels: `(B, 3, H, W)` float in [0, 1], on the images' own grid.

        Returns:
            `pixel_values` of shape `(B, 3, image_size, image_size)`.

        Raises:
            ValueError: If `pixels` is not a batch of square three-channel images: crop first, since squashing an
                image to a square would change what the attacker perturbs.
        """
        if pixels.dim() != 4 or pixels.shape[1] != 3 or pixels.shape[2] != pixels.shape[3]:
            raise ValueError(
                f"pixels must have shape (batch, 3, side, side), got {tuple(pixels.shape)}; "
                "crop images to squares first, as PixelCollator does."
            )
        if pixels.shape[-1] != self.image_size:
            for size in ((pixels.shape[-2], self.image_size), (self.image_size, self.image_size)):
                pixels = F.interpolate(pixels.float(), size, mode="bicubic", antialias=True).clamp(0, 1)
        mean = pixels.new_tensor(self.config.image_mean).view(1, 3, 1, 1)
        std = pixels.new_tensor(self.config.image_std).view(1, 3, 1, 1)
        return ((pixels - mean) / std).to(self.dtype)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Projected, un-normalised image features, `(B, D)`, of `pixels` `(B, 3, H, W)` in [0, 1]."""
        return self.get_image_features(pixel_values=self.preprocess(pixels)).pooler_output

    def encode_image_tokens(self, pixels: Tensor) -> Tensor:
        """Every token of the vision tower in the joint space, `(B, 1 + N, D)`; row 0 is `encode_image(pixels)`.

        `post_layernorm` and the projection, which CLIP applies to the class token alone, are applied to all tokens
        (TGA-ZSR, https://huggingface.co/papers/2410.21802, section 3.2).
        """
        tokens = self.vision_model(pixel_values=self.preprocess(pixels)).last_hidden_state
        return self.visual_projection(self.vision_model.post_layernorm(tokens))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Projected, un-normalised text features, `(N, D)`, of `input_ids` `(N, L)`."""
        return self.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output

    def forward(self, *args: Any, compute: Callable[["RobustCLIPModel"], Any] | None = None, **kwargs: Any) -> Any:
        """Stock CLIP's forward, or `compute(self)` when `compute` is given.

        Distributed wrappers (DDP, DeepSpeed) hook gradients around `forward` alone. An objective calls the towers in
        its own order, so it is run from inside `forward`.
        """
        if compute is not None:
            return compute(self)
        return super().forward(*args, **kwargs)
