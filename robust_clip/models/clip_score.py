"""A robust CLIP as the model of torchmetrics' CLIPScore."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import CLIPProcessor

from .modeling import RobustCLIPModel


class TensorFeatures(nn.Module):
    """A CLIP whose `get_image_features` and `get_text_features` give tensors, as before transformers 5.

    torchmetrics up to 1.9 divides what they give by its norm, which the output object of transformers 5 has not, so
    there it can take no CLIP as it is.

    Args:
        model: Held, not copied.
    """

    def __init__(self, model: RobustCLIPModel) -> None:
        super().__init__()
        self.model = model

    @property
    def config(self) -> Any:
        """The config of the model."""
        return self.model.config

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Projected, un-normalised features `(B, D)` of normalised images `(B, 3, side, side)`."""
        return self.model.get_image_features(pixel_values=pixel_values).pooler_output

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Projected, un-normalised features `(N, D)` of token ids `(N, L)`."""
        return self.model.encode_text(input_ids, attention_mask)


def clip_score_model(
    model: RobustCLIPModel, processor: CLIPProcessor
) -> Callable[[], tuple[TensorFeatures, CLIPProcessor]]:
    """What torchmetrics takes as `model_name_or_path`: `CLIPScore(clip_score_model(model, processor))`.

    torchmetrics hands images to the processor, so they have values from 0 to 255, unlike `pixels`: score
    `255 * pixels`.

    Args:
        model: The CLIP, or `load_checkpoint(name)` for both: `clip_score_model(*load_checkpoint(name))`.
        processor: Its processor.
    """
    return lambda: (TensorFeatures(model), processor)
