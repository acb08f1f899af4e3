"""What a row calls the model, and what identifies the weights that were measured."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from robust_clip.models import RobustCLIPModel
from robust_clip.models.prompt_files import CONFIG_NAME


def checkpoint_revision(checkpoint: str, model: nn.Module) -> str:
    """Revision of weights that are as they were loaded.

    Three names of one model do not compare as text: this one, of a file; `weights_revision`, of the tensors in memory;
    and `weights_digest`, the `base weights` on record of an adapter or prompts, which takes every type as float32.

    Args:
        checkpoint: Directory or Hub id that the model came from.
        model: The model loaded from it.

    Returns:
        For a directory `sha256:` and the digest that `sha256sum` prints for its weights file (of several files: the
        digest of their digests); for a Hub id its commit; where neither is known, and for an adapter, or prompts in a
        directory, whose base is part of what is measured, `weights_revision`.
    """
    folder = Path(checkpoint)
    if getattr(model, "peft_config", None) or (folder / CONFIG_NAME).is_file():
        return weights_revision(model)
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if files:
        digests = []
        for file in files:
            with file.open("rb") as opened:
                digests.append(hashlib.file_digest(opened, "sha256").hexdigest())
        return f"sha256:{digests[0] if len(digests) == 1 else hashlib.sha256(''.join(digests).encode()).hexdigest()}"
    commit = getattr(getattr(model, "config", None), "_commit_hash", None)
    return str(commit) if commit else weights_revision(model)


def weights_revision(model: nn.Module) -> str:
    """Revision of the weights in memory, also of a model in training: `memory-sha256:` and a digest.

    It covers names, types, shapes and values of all parameters and persistent buffers, in the order of `state_dict`,
    and which adapters are active.
    """
    digest = hashlib.sha256()
    if getattr(model, "peft_config", None):
        adapted = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
        states = {(tuple(module.active_adapters), module.disable_adapters) for module in adapted}
        digest.update(f"{sorted(states)}".encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return f"memory-sha256:{digest.hexdigest()}"


def describe_model(
    model: RobustCLIPModel, tokenizer: Any, model_id: str | None = None, revision: str | None = None
) -> dict[str, Any]:
    """What a row says of a model, in the types of JSON: `id`, `revision` and `settings`.

    Args:
        model: The model.
        tokenizer: Of its prompts.
        model_id: By default `readable_id(model)`.
        revision: By default `weights_revision(model)`.
    """
    return {
        "id": model_id or readable_id(model),
        "revision": revision or weights_revision(model),
        "settings": _settings(model, tokenizer),
    }


def _settings(model: RobustCLIPModel, tokenizer: Any) -> dict[str, Any]:
    """What a classifier depends on beside its weights, which no digest of these covers."""
    config: Any = model.config
    towers = {
        name: {key: getattr(tower, key) for key in ("hidden_act", "layer_norm_eps", "num_attention_heads")}
        for name, tower in (("vision", config.vision_config), ("text", config.text_config))
    }
    found = towers | {
        "eos_token_id": config.text_config.eos_token_id,
        "image_mean": list(config.image_mean),
        "image_std": list(config.image_std),
        "vocabulary": _digest(sorted(tokenizer.get_vocab().items())),
    }
    layers = ((path, module) for path, module in model.named_modules() if isinstance(module, BaseTunerLayer))
    scales = [(path, *each) for path, module in layers for each in getattr(module, "scaling", {}).items()]
    adapters = sorted({(name, scale) for _, name, scale in scales})
    found |= {"adapter_scales": [list(pair) for pair in adapters]} if adapters else {}
    if len(adapters) > len({name for name, _ in adapters}):  # which layer has which is more than that list tells
        found["adapter_scales_of_layers"] = _digest(sorted(scales))
    return found | ({"prompts": _digest(config.prompts)} if getattr(config, "prompts", None) else {})


def _digest(value: Any) -> str:
    """Of what is too long to stand in a row."""
    return f"sha256:{hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()}"


def readable_id(model: RobustCLIPModel) -> str:
    """Hub id, or the last part of a directory: where it stood on somebody's disk is nobody's business."""
    name = str(model.name_or_path or "unnamed")
    if getattr(model, "peft_config", None):
        sources = getattr(model, "adapter_sources", {})
        name = next((sources[each] for each in model.active_adapters() if each in sources), name)
    return Path(name).resolve().name if Path(name).is_dir() else name
