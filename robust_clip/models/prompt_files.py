"""Prompts on disk without their base, and what identifies the base that they were learned on."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import cached_file

from .presence import require_checkpoint

logger = logging.getLogger(__name__)

CONFIG_NAME, WEIGHTS_NAME = "prompts_config.json", "prompts.safetensors"
# Where the adapter of a model that has prompts and an adapter is saved.
ADAPTER_FOLDER = "adapter"


@dataclass(frozen=True)
class PromptFiles:
    """What a folder or repository with nothing but prompts holds.

    Args:
        source: Folder or Hub id.
        settings: `prompts` (sizes), `base` (`name`, `revision`, `weights`), `robustness`, and `adapter`: whether one
            was saved beside them.
        tensors: By their names in a `PromptedCLIPModel`.
    """

    source: str
    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Writes both files into `folder`, the configuration last, so that its presence says that all is there."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, folder / WEIGHTS_NAME)
        text = json.dumps({"model_type": "prompted_clip", **self.settings}, indent=2)
        (folder / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")

    def check_fits(self, prompts: Mapping[str, Tensor], base: Mapping[str, Any]) -> None:
        """Refuses prompts that a model has no place for, and warns of another base than they were learned on.

        Args:
            prompts: Of the model, by name.
            base: On record in its configuration.

        Raises:
            ValueError: If names or shapes differ.
        """
        different = sorted(prompts.keys() ^ self.tensors.keys())
        if different:
            raise ValueError(f"The prompts in {self.source} are damaged: {different[0]} is missing or not on record.")
        for name, prompt in prompts.items():
            got, need = tuple(self.tensors[name].shape), tuple(prompt.shape)
            if got != need:
                raise ValueError(
                    f"The prompts in {self.source} were learned for another base: {name} is {got[-1]} wide, of shape "
                    f"{got}, but this base needs {need[-1]}, shape {need}."
                )
        recorded = self.settings["base"]
        if recorded.get("weights") != base.get("weights"):
            logger.warning(
                "The prompts in %s were learned on %s with weights %s, but the base has weights %s: its results will "
                "differ.",
                self.source,
                recorded.get("name"),
                recorded.get("weights"),
                base.get("weights"),
            )

    @classmethod
    def read(cls, name: str, **where: Any) -> "PromptFiles | None":
        """Those of a folder or Hub id; `None` if it is none with nothing but prompts.

        Args:
            name: Folder or Hub id.
            **where: `revision`, `token`, `cache_dir` and so on, as `from_pretrained` takes them.

        Raises:
            ValueError: If nothing of that name is there, or they are damaged.
        """
        require_checkpoint(name, **where)
        config = find_file(name, CONFIG_NAME, **where)
        if config is None:
            return None
        weights = find_file(name, WEIGHTS_NAME, **where)
        if weights is None:
            raise ValueError(f"{name} has {CONFIG_NAME} but no {WEIGHTS_NAME}; download or save the prompts again.")
        try:
            settings = json.loads(Path(config).read_text(encoding="utf-8"))
            missing = {"prompts", "base"} - settings.keys()
            if missing:
                raise ValueError(f"{CONFIG_NAME} says nothing of {sorted(missing)}")
            return cls(name, settings, load_file(weights))
        except (json.JSONDecodeError, SafetensorError, ValueError, AttributeError) as error:
            raise ValueError(f"The prompts in {name} are damaged: {error}. Download or save them again.") from error


def refuse_prompts_alone(name: str | os.PathLike[str], **where: Any) -> None:
    """Refuses a folder or Hub id with nothing but prompts, for who would load it as a model.

    Raises:
        ValueError: If it is one.
    """
    if find_file(str(name), CONFIG_NAME, **where) and not find_file(str(name), "config.json", **where):
        raise ValueError(
            f"{name} holds learned prompts alone; load them, with their base, by PromptedCLIPModel.from_pretrained or "
            "load_checkpoint."
        )


def find_file(name: str, file: str, **where: Any) -> str | None:
    """Path of a file in a folder or, downloaded, of a Hub id; `None` if it is not there or cannot be reached."""
    if "/" not in name and not Path(name).exists():
        return None  # no id of the Hub, which would be asked again and again
    quietly = {
        "_raise_exceptions_for_gated_repo": False,
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    try:
        return cached_file(name, file, **{key: value for key, value in where.items() if value is not None}, **quietly)
    except OSError:
        return None


def where_on_hub(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What of the arguments of `from_pretrained` says where a file is.

    >>> where_on_hub({"revision": "main", "token": None, "dtype": "auto"})
    {'revision': 'main'}
    """
    names = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
    return {name: kwargs[name] for name in names if kwargs.get(name) is not None}


def base_digest(model: torch.nn.Module, names: Iterable[str]) -> str:
    """`weights_digest` of the weights `names` as they are now, without what peft put beside them."""
    plain = {_plain(name): weight for name, weight in model.state_dict().items()}
    return weights_digest((name, plain[name]) for name in names)


def _plain(name: str) -> str:
    """Name of a weight without what peft puts into it.

    >>> _plain("vision_model.encoder.layers.0.mlp.fc1.base_layer.weight")
    'vision_model.encoder.layers.0.mlp.fc1.weight'
    """
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")


def weights_digest(weights: Iterable[tuple[str, Tensor]]) -> str:
    """`sha256:` and a digest of names, shapes and values, which are taken as float32 whatever they are kept in.

    The same for a checkpoint from the Hub, a copy of it on disk and one in memory.

    >>> weights_digest([("a", torch.ones(2)), ("b", torch.ones(1))]) == weights_digest(
    ...     [("b", torch.ones(1)), ("a", torch.ones(2, dtype=torch.bfloat16))]
    ... )
    True
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(weights, key=lambda pair: pair[0]):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        values: Any = tensor.detach().float().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(values)
    return f"sha256:{digest.hexdigest()}"
