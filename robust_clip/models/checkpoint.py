"""Loading a checkpoint by name: from the Hub, a folder, or the package itself."""

import torch
from safetensors import SafetensorError
from transformers import CLIPConfig, CLIPProcessor
from transformers.utils.hub import resolve_revision

from .adapters import base_of, read_settings
from .configuration import PromptedCLIPConfig
from .modeling import RobustCLIPModel
from .packaged import PACKAGED, packaged_checkpoint
from .presence import require_checkpoint
from .prompt_files import PromptFiles, find_file
from .prompted import PromptedCLIPModel


def load_checkpoint(name: str, revision: str = "main") -> tuple[RobustCLIPModel, CLIPProcessor]:
    """A CLIP checkpoint in fp32, with its processor.

    Args:
        name: Hub id, folder, or the name of a packaged checkpoint. Of a folder or repository with an adapter or
            learned prompts alone the base is loaded, too, and its processor unless there is one beside them.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The model, in eval mode as `from_pretrained` leaves it, and the processor.

    Raises:
        ValueError: If it is not there, cannot be reached, is damaged or is not a CLIP.
    """
    require_checkpoint(name, revision=revision)
    path = packaged_checkpoint(name)
    # Once, so that all files are of one commit and what is not there is asked for once.
    revision = resolve_revision(path, revision) or revision
    try:
        files, adapter = PromptFiles.read(path, revision=revision), read_settings(path, revision=revision)
        kind = PromptedCLIPModel if files is not None or _is_prompted(path, revision) else RobustCLIPModel
        model = kind.from_pretrained(path, revision=revision, dtype=torch.float32)
        if files is None and adapter is None:
            return model, _processor(path, revision, model)
        if find_file(path, "tokenizer_config.json", revision=revision) is not None:
            return model, CLIPProcessor.from_pretrained(path, revision=revision)
        if adapter is not None:
            return model, _processor(*base_of(path, adapter), model)
        base = files.settings["base"]
        return model, _processor(packaged_checkpoint(base["name"]), base["revision"] or "main", model)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"Cannot load a CLIP checkpoint from {name!r}: give a folder with config.json, weights and processor, "
            f"a Hub id that can be reached, or one of {', '.join(PACKAGED)}. ({error})"
        ) from error


def _processor(path: str, revision: str, model: RobustCLIPModel) -> CLIPProcessor:
    """Of a whole checkpoint, `model` or its base; of one that was converted in memory, made from its own files."""
    if hasattr(model.config, "conversion") and find_file(path, "config.json", revision=revision) is None:
        # Not at the top: the room of the Hub is built on this one.
        from robust_clip.hub.convert import published_processor

        return published_processor(path, model.config.to_dict(), revision=revision)
    return CLIPProcessor.from_pretrained(path, revision=revision)


def _is_prompted(path: str, revision: str) -> bool:
    if find_file(path, "config.json", revision=revision) is None:
        return False
    config, _ = CLIPConfig.get_config_dict(path, revision=revision)
    return config.get("model_type") == PromptedCLIPConfig.model_type
