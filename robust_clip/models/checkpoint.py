"""Loading a checkpoint by name: from the Hub, a folder, or the package itself."""

from importlib.resources import files

import torch
from safetensors import SafetensorError
from transformers import CLIPProcessor

from .modeling import RobustCLIPModel

PACKAGED = ("nano_clip",)


def packaged_checkpoint(name: str) -> str:
    """The folder of a packaged checkpoint; any other name, path or Hub id is given back as it is.

    >>> packaged_checkpoint("openai/clip-vit-base-patch32")
    'openai/clip-vit-base-patch32'
    >>> packaged_checkpoint("nano_clip").endswith("nano_clip")
    True
    """
    return str(files("robust_clip") / "data" / "assets" / name) if name in PACKAGED else name


def load_checkpoint(name: str, revision: str = "main") -> tuple[RobustCLIPModel, CLIPProcessor]:
    """A CLIP checkpoint in fp32, with its processor.

    Args:
        name: Hub id, folder, or the name of a packaged checkpoint.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The model, in eval mode as `from_pretrained` leaves it, and the processor.

    Raises:
        ValueError: If it is not there, cannot be reached, is damaged or is not a CLIP.
    """
    path = packaged_checkpoint(name)
    try:
        model = RobustCLIPModel.from_pretrained(path, revision=revision, dtype=torch.float32)
        return model, CLIPProcessor.from_pretrained(path, revision=revision)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"Cannot load a CLIP checkpoint from {name!r}: give a folder with config.json, weights and processor, "
            f"a Hub id that can be reached, or one of {', '.join(PACKAGED)}. ({error})"
        ) from error
