"""The visual prompts of TeCoA's script, as prompts that `PromptedCLIPModel` loads."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from robust_clip.models import PromptedCLIPModel, PromptSizes, RobustCLIPModel


def save_prompters(prompters: Mapping[str, Tensor], model: RobustCLIPModel, folder: Path) -> None:
    """Writes `prompts_config.json` and `prompts.safetensors`.

    Args:
        prompters: From `read_prompters`.
        model: The converted model that they belong to.
        folder: For the two files.

    Raises:
        ValueError: If they do not fit the model.
    """
    shapes = {name: prompt.shape for name, prompt in prompters.items()}
    sizes = PromptSizes(
        frame=shapes["frame.up"][2] if "frame.up" in shapes else 0,
        patch=shapes["patch"][2] if "patch" in shapes else 0,
        tokens=shapes["tokens"][0] if "tokens" in shapes else 0,
    )
    prompted = PromptedCLIPModel.around(model, sizes)
    with torch.no_grad():
        for name, prompt in prompted.prompts():
            given = prompters[name.removeprefix("vision_model.embeddings.")]
            if given.shape != prompt.shape:
                raise ValueError(f"The prompter's {name} has shape {tuple(given.shape)}, not {tuple(prompt.shape)}.")
            prompt.copy_(given)
    prompted.save_prompts(folder)
