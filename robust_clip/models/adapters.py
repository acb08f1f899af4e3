"""Adapters of peft on disk: the base that they belong to, on record and checked."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import CLIPModel

from .packaged import packaged_checkpoint, public_name
from .prompt_files import base_digest, find_file

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
    told |= {_WEIGHTS: digest_of_base(model)}
    base = public_name(str(model.name_or_path))
    if not Path(base).is_dir():
        # Where a base stood on somebody's disk is nobody's business.
        told["base"] = base
    if commit := getattr(model.config, "_commit_hash", None):
        told[_COMMIT] = commit
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / RECORD_NAME).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def put_on(model: Any, name: str, adapter: str = "default", **where: Any) -> None:
    """Loads the adapter in `name` and how it was trained, and warns if that was on another base than `model`.

    Not by transformers' `load_adapter`, which leaves out what some methods learn (the magnitudes of DoRA).

    Args:
        model: The base, with other adapters or none.
        name: Folder or Hub id.
        adapter: What it is called in `model`.
        **where: As of `read_settings`.

    Raises:
        ValueError: If there is none, or it does not fit the base.
    """
    config, weights = (find_file(name, file, **where) for file in (CONFIG_NAME, WEIGHTS_NAME))
    if config is None or weights is None:
        raise ValueError(
            f"{name} holds no adapter of peft: {CONFIG_NAME} and {WEIGHTS_NAME} are not both there, or out of reach."
        )
    settings = PeftConfig.from_pretrained(str(Path(config).parent))
    known = {id(parameter) for parameter in model.parameters()}
    model.add_adapter(settings, adapter)
    try:
        _fill(model, weights, adapter)
    except (RuntimeError, ValueError) as error:
        model.delete_adapter(adapter)
        base = model.name_or_path
        raise ValueError(f"The adapter in {name} was made for another base than {base}: {error}") from error
    for parameter in model.parameters():
        if id(parameter) not in known:
            parameter.requires_grad_(False)
    model.adapter_sources = {**getattr(model, "adapter_sources", {}), adapter: name}
    record = find_file(name, RECORD_NAME, **where)
    if record is None:
        return
    told: dict[str, Any] = json.loads(Path(record).read_text(encoding="utf-8"))
    recorded = told.get(_WEIGHTS)
    if recorded and recorded != (ours := digest_of_base(model)):
        logger.warning(
            "The adapter in %s was trained on %s with weights %s, but the base has weights %s: expect other results.",
            name,
            told.get("base", "a base on disk"),
            recorded,
            ours,
        )
    model.config.robustness = told


def digest_of_base(model: CLIPModel) -> str:
    """`weights_digest` of the base as it is now, without what peft put beside it."""
    with torch.device("meta"):
        names = list(type(model)(model.config).state_dict())
    return base_digest(model, names)


def load_adapter_weights(model: CLIPModel, folder: str | Path) -> None:
    """Replaces the values of the adapter that `model` has by those in a folder, for training to go on.

    Raises:
        ValueError: If the folder has none, or they are of another adapter.
    """
    file = Path(folder) / WEIGHTS_NAME
    if not file.is_file():
        raise ValueError(f"{folder} has no {WEIGHTS_NAME}, so there is no adapter to go on with.")
    (adapter,) = model.active_adapters()
    _fill(model, file, adapter)


def merge_and_unload(model: Any) -> None:
    """Adds the active adapters to the weights that they stand beside, and takes all adapters out, in place.

    Raises:
        ValueError: If there is no adapter, or its method cannot be merged.
    """
    if not getattr(model, "peft_config", None):
        raise ValueError("The model has no adapter to merge.")
    active = model.active_adapters()
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            try:
                module.merge(safe_merge=True, adapter_names=active)
            except NotImplementedError as error:
                raise ValueError(f"The adapter {active} is of a kind that peft cannot merge.") from error
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, module.get_base_layer())
    del model.peft_config
    model._hf_peft_config_loaded = False
    model.requires_grad_(True)


def _fill(model: CLIPModel, file: str | Path, adapter: str) -> None:
    prefix = "base_model.model."
    weights = {name.removeprefix(prefix): weight for name, weight in load_file(file).items()}
    report: Any = set_peft_model_state_dict(model, weights, adapter_name=adapter)
    if report.unexpected_keys:
        raise ValueError(f"{file} is of another adapter: this model has no {min(report.unexpected_keys)}.")
    if missing := sorted(name for name in report.missing_keys if f".{adapter}" in name):
        raise ValueError(f"{file} is of another adapter: it has no {missing[0]}.")
