"""Prompts of the vision tower: learned pixels added to the image, and learned tokens beside its own."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.clip.modeling_clip import CLIPEncoder, CLIPVisionEmbeddings

from .prompt_sizes import PromptSizes


class PixelFrame(nn.Module):
    """A learned frame with a centre of zeros (Mao et al., https://huggingface.co/papers/2212.07016, section 3.3).

    Args:
        width: Of the frame, in pixels.
        side: Of the image, in pixels.
    """

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(1, 3, width, side))
        self.down = nn.Parameter(torch.randn(1, 3, width, side))
        self.left = nn.Parameter(torch.randn(1, 3, side - 2 * width, width))
        self.right = nn.Parameter(torch.randn(1, 3, side - 2 * width, width))

    def forward(self) -> Tensor:
        """The frame, `(1, 3, side, side)`."""
        height, width = self.left.shape[-2:]
        centre = self.left.new_zeros(1, 3, height, self.up.shape[-1] - 2 * width)
        middle = torch.cat([self.left, centre, self.right], dim=3)
        return torch.cat([self.up, middle, self.down], dim=2)


class PromptedVisionEmbeddings(CLIPVisionEmbeddings):
    """CLIP's patch embeddings of an image with learned pixels added, and learned tokens after them.

    The tokens have no position, which is what TeCoA's code does: its positions for them are zeros that do not learn.

    Args:
        config: Of the vision tower.
        sizes: Of the prompts.
    """

    side: int
    frame: PixelFrame | None
    patch: nn.Parameter | None
    tokens: nn.Parameter | None

    def __init__(self, config: CLIPVisionConfig, sizes: PromptSizes) -> None:
        super().__init__(config)
        self.side = config.image_size  # type: ignore[assignment]  # CLIP's images are square
        self.frame = PixelFrame(sizes.frame, self.side) if sizes.frame else None
        patch = torch.randn(1, 3, sizes.patch, sizes.patch)
        self.register_parameter("patch", nn.Parameter(patch) if sizes.patch else None)
        tokens = torch.randn(sizes.tokens, self.embed_dim)
        self.register_parameter("tokens", nn.Parameter(tokens) if sizes.tokens else None)

    def add_pixels(self, pixel_values: Tensor) -> Tensor:
        """`pixel_values` `(B, 3, side, side)` with frame and patch added, after normalisation and without clamping.

        Raises:
            ValueError: If the images have not the size that the frame was made for.
        """
        added = self.frame() if self.frame is not None else None
        if self.patch is not None:
            rest = self.side - self.patch.shape[-1]
            patch = F.pad(self.patch, (0, rest, 0, rest))
            added = patch if added is None else added + patch
        if added is None:
            return pixel_values
        if pixel_values.shape[-2:] != added.shape[-2:]:
            got, need = tuple(pixel_values.shape[-2:]), tuple(added.shape[-2:])
            raise ValueError(f"Learned pixels of {need} cannot be added to images of {got}; resize the images.")
        return pixel_values + added.to(pixel_values.dtype)

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Embeddings `(B, 1 + patches + tokens, width)` of normalised images `(B, 3, side, side)`."""
        embeddings: Tensor = super().forward(self.add_pixels(pixel_values), interpolate_pos_encoding)
        if self.tokens is None:
            return embeddings
        tokens = self.tokens.to(embeddings.dtype).expand(len(embeddings), -1, -1)
        return torch.cat([embeddings, tokens], dim=1)


class PromptedEncoder(CLIPEncoder):
    """CLIP's blocks, whose first `depth` get fresh prompts instead of what the block before made of them.

    Args:
        config: Of the tower.
        count: Prompts in the sequence.
        depth: Blocks with prompts of their own; those of the first come with the embeddings.
        at_end: Prompts are the last of the sequence and are left out of the result, so that whoever reads the tower's
            tokens finds those of the image; otherwise they stand right after the first token, and stay.
    """

    prompts: nn.Parameter | None

    def __init__(self, config: Any, count: int, depth: int, *, at_end: bool) -> None:
        super().__init__(config)
        self.count, self.at_end = count, at_end
        fresh = torch.randn(depth - 1, count, config.hidden_size)
        self.register_parameter("prompts", nn.Parameter(fresh) if depth > 1 else None)

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        """Hidden states `(B, length, width)` after all blocks."""
        fresh = [] if self.prompts is None else list(self.prompts)
        hidden = inputs_embeds
        for number, layer in enumerate(self.layers):
            if 0 < number <= len(fresh):
                hidden = self._replaced(hidden, fresh[number - 1])
            hidden = layer(hidden, attention_mask, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden[:, : -self.count] if self.at_end else hidden)

    def _replaced(self, hidden: Tensor, prompts: Tensor) -> Tensor:
        prompts = prompts.to(hidden.dtype).expand(len(hidden), -1, -1)
        if self.at_end:
            return torch.cat([hidden[:, : -self.count], prompts], dim=1)
        return torch.cat([hidden[:, :1], prompts, hidden[:, 1 + self.count :]], dim=1)
