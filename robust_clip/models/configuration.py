"""Configuration of robust CLIP models: a stock CLIP config that also says how pixels are normalised, and prompts."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import CLIPConfig, ImageProcessingMixin
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from .prompt_files import refuse_prompts_alone, where_on_hub
from .prompt_sizes import PromptSizes

logger = logging.getLogger(__name__)


class RobustCLIPConfig(CLIPConfig):
    """A `CLIPConfig` with the three facts that pixel-space robustness needs.

    `model_type` stays `clip`: stock transformers reads the saved file and ignores the extra keys.

    Args:
        image_mean: Mean of each channel, in pixel units of [0, 1]; three numbers.
        image_std: Standard deviation of each channel, in the same units; three positive numbers.
        robustness: How the weights were trained (objective, data, and the attack and threat model if there were any),
            written by `AdversarialTrainer`, and at conversion for published checkpoints; `None` where it is not known.

    Raises:
        ValueError: If `image_mean` or `image_std` is not three numbers, or a deviation is not positive.
    """

    model_type = "clip"

    image_mean: list[float] | tuple[float, ...] | None = None
    image_std: list[float] | tuple[float, ...] | None = None
    robustness: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.image_mean = _three_numbers("image_mean", self.image_mean, OPENAI_CLIP_MEAN)
        self.image_std = _three_numbers("image_std", self.image_std, OPENAI_CLIP_STD)
        if min(self.image_std) <= 0:
            raise ValueError(f"image_std must be positive in each channel, got {self.image_std}.")
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As the parent's, with the mean and deviation of a stock checkpoint taken from its image processor."""
        source = where_on_hub(kwargs)
        if Path(pretrained_model_name_or_path).is_dir():
            refuse_prompts_alone(pretrained_model_name_or_path)
        config, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if config.get("image_mean") is None:
            try:
                processor, _ = ImageProcessingMixin.get_image_processor_dict(pretrained_model_name_or_path, **source)
            except OSError:
                processor = {}
                logger.warning("No image processor in %s: using OpenAI's mean.", pretrained_model_name_or_path)
            config |= {key: processor[key] for key in ("image_mean", "image_std") if key in processor}
        return config, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "RobustCLIPConfig":
        """As the parent's, but refuses a checkpoint that is not a CLIP instead of filling it with random weights."""
        model_type = config_dict.get("model_type")
        if {model_type, cls.model_type} == {RobustCLIPConfig.model_type, PromptedCLIPConfig.model_type}:
            raise ValueError(
                "The checkpoint has learned prompts: load it by PromptedCLIPModel.from_pretrained or load_checkpoint."
                if model_type == PromptedCLIPConfig.model_type
                else "The checkpoint has no learned prompts: load it by RobustCLIPModel.from_pretrained, and put some "
                "around it by PromptedCLIPModel.around or the adaptation prompts."
            )
        if model_type != cls.model_type:
            raise ValueError(
                f"Not a CLIP checkpoint: its config.json says model_type {model_type!r}, but {cls.model_type!r} is "
                "needed. Give a CLIP checkpoint such as openai/clip-vit-base-patch32."
            )
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The config as saved: it names stock `CLIPModel`, so that the checkpoint loads without this package."""
        return super().to_dict() | {"architectures": ["CLIPModel"]}


class PromptedCLIPConfig(RobustCLIPConfig):
    """A `RobustCLIPConfig` that also says which prompts the model has and what they were learned on.

    Args:
        prompts: Fields of `PromptSizes`.
        base: `name` of the checkpoint that the prompts were put around, its `revision` on the Hub, and the digest of
            its `weights`.

    Raises:
        ValueError: As `PromptSizes`.
    """

    model_type = "prompted_clip"

    prompts: dict[str, Any] | None = None
    base: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.prompts = PromptSizes.of(self.prompts).to_dict()
        super().__post_init__(**kwargs)

    @property
    def sizes(self) -> PromptSizes:
        """Kinds and sizes of the prompts."""
        return PromptSizes.of(self.prompts)

    def to_dict(self) -> dict[str, Any]:
        """The config as saved. It names a class of this package, since stock CLIP would leave the prompts out."""
        return super().to_dict() | {"architectures": ["PromptedCLIPModel"]}


def _three_numbers(name: str, value: Sequence[float] | None, default: Sequence[float]) -> list[float]:
    numbers = [float(number) for number in (default if value is None else value)]
    if len(numbers) != 3:
        raise ValueError(f"{name} must be three numbers, one per colour channel, got {numbers}.")
    return numbers
