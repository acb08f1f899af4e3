"""Adapters of peft on disk: the base that they belong to, on record and checked."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import CLIPModel

from .packaged import packaged_checkpoint, public_name
from .prompt_files import find_file, weights_digest

logger = logging.getLogger(__name__)

CONFIG_NAME, WEIGHTS_NAME, RECORD_NAME = "adapter_config.json", "adapter_model.safetensors", "robustness.json"
_WEIGHTS, _COMMIT = "base weights", "base revision"


def read_settings(name: str, **where: Any) -> dict[str, Any] | None:
    """Peft's configuration of an adapter in a folder or Hub id without its base; `None` if there is none."""
    path = find_file(name, CONFIG_NAME, **where)
    if path is None or find_file(name, "config.json", **where):
        return None
    settings: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return settings


def base_of(name: str, settings: dict[str, Any], base: str | None = None) -> tuple[str, str]:
    """Folder or Hub id of the base that an adapter goes on, and its revision.

    Args:
        name: Of the adapter, for the error.
        settings: Its configuration.
        base: In place of the one that the adapter names.

    Raises:
        ValueError: If neither says.
    """
    recorded = settings.get("base_model_name_or_path")
    if not (base or recorded):
        raise ValueError(f"The adapter in {name} does not say which base it belongs to; give it as base.")
    return packaged_checkpoint(str(base or recorded)), (None if base else settings.get("revision")) or "main"


def name_base(model: CLIPModel) -> None:
    """Puts the base's public name and commit into the configurations of the adapters, for peft to write."""
    settings: Any
    for settings in model.peft_config.values():
        settings.base_model_name_or_path = public_name(str(model.name_or_path))
        settings.revision = settings.revision or getattr(model.config, "_commit_hash", None)


def write_record(model: CLIPModel, folder: str | os.PathLike[str]) -> None:
    """Writes beside an adapter how it was trained, and a digest of the base that it belongs to."""
    told = dict(getattr(model.config, "robustness", None) or {})
    told |= {"base": public_name(str(model.name_or_path)), _WEIGHTS: base_digest(model)}
    if commit := getattr(model.config, "_commit_hash", None):
        told[_COMMIT] = commit
    (Path(folder) / RECORD_NAME).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def put_on(model: CLIPModel, name: str, **where: Any) -> None:
    """Loads the adapter in `name` and how it was trained, and warns if that was on another base than `model`.

    Raises:
        ValueError: If the adapter does not fit the base.
    """
    path, ours = find_file(name, RECORD_NAME, **where), base_digest(model)
    try:
        model.load_adapter(name, adapter_kwargs=where)
    except RuntimeError as error:
        base = model.name_or_path
        raise ValueError(f"The adapter in {name} was made for another base than {base}: {error}") from error
    if path is None:
        return
    told: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    if (recorded := told.get(_WEIGHTS)) not in (None, ours):
        logger.warning(
            "The adapter in %s was trained on %s with weights %s, but the base has weights %s: expect other results.",
            name,
            told.get("base"),
            recorded,
            ours,
        )
    model.config.robustness = told


def base_digest(model: CLIPModel) -> str:
    """`weights_digest` of the base as it is now, without what peft put beside it."""
    with torch.device("meta"):
        names = type(model)(model.config).state_dict()
    weights = {_plain(name): weight for name, weight in model.state_dict().items()}
    return weights_digest((name, weights[name]) for name in names)


def load_adapter_weights(model: CLIPModel, folder: str | Path) -> None:
    """Replaces the values of the adapter that `model` has by those in a folder, for training to go on.

    Raises:
        ValueError: If the folder has none, or they are of another adapter.
    """
    file = Path(folder) / WEIGHTS_NAME
    if not file.is_file():
        raise ValueError(f"{folder} has no {WEIGHTS_NAME}, so there is no adapter to go on with.")
    prefix = "base_model.model."
    weights = {name.removeprefix(prefix): weight for name, weight in load_file(file).items()}
    (adapter,) = model.active_adapters()
    report: Any = set_peft_model_state_dict(model, weights, adapter_name=adapter)
    if report.unexpected_keys:
        raise ValueError(f"{file} is of another adapter: this model has no {min(report.unexpected_keys)}.")


def _plain(name: str) -> str:
    """Name of a weight without what peft puts into it.

    >>> _plain("vision_model.encoder.layers.0.mlp.fc1.base_layer.weight")
    'vision_model.encoder.layers.0.mlp.fc1.weight'
    """
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")
