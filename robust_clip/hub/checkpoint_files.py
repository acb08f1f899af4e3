"""Finding and reading the files of a checkpoint, on disk or on the Hub; nothing that a pickle brings along is run."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import cached_file

# A config, and the files of weights that may stand beside it, best first.
LAYOUTS = {
    "config.json": (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ),
    "open_clip_config.json": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
}
_TORCH_SUFFIXES = (".pt", ".pth", ".tar", ".bin")
WEIGHT_SUFFIXES = (*_TORCH_SUFFIXES, ".safetensors")
# What torch raises, besides its own error, when it reads bytes that are no checkpoint.
_DAMAGED = (RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError, AssertionError)
# What `best_acc1` needs where it was saved as a number of numpy: a dtype and eight bytes, no code. Files from before
# numpy 2 call the function by its older name.
_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
_NUMBERS: list[Any] = [
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Float16DType, np.dtypes.Int64DType),
]


@dataclasses.dataclass(frozen=True)
class CheckpointFiles:
    """Where a checkpoint's parts are.

    Args:
        source: What the user gave.
        weights: Files that hold the weights together.
        layout: `config.json`, `open_clip_config.json`, or empty where the weights stand alone.
        config: Content of that file.
        place: Folder or Hub id where a tokenizer may be.
    """

    source: str
    weights: tuple[Path, ...]
    layout: str
    config: dict[str, Any]
    place: str

    def digests(self) -> dict[str, str]:
        """`sha256` of each file, as `sha256sum` prints it."""
        return {file.name: sha256(file) for file in self.weights}


def sha256(file: Path) -> str:
    """Digest of a file's bytes, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def find_files(source: str, **download: Any) -> CheckpointFiles:
    """The files of a checkpoint.

    Args:
        source: A file, a folder, a Hub id, or `OWNER/NAME/FILE` for one file of a Hub repository.
        download: `revision`, `token`, `cache_dir` and what else `transformers` takes for finding a file.

    Raises:
        ValueError: If nothing is there, or it has no weights, or it is not clear which of its files is meant.
        OSError: If the Hub cannot be reached.
    """
    source = source.removeprefix("hf-hub:")
    path, parts = Path(source), source.strip("/").split("/")
    if path.is_file():
        return _one_file(source, path)
    if not path.is_dir() and len(parts) > 2 and not source.startswith(("/", ".", "~")):
        repository, name = "/".join(parts[:2]), "/".join(parts[2:])
        return CheckpointFiles(source, (Path(str(cached_file(repository, name, **download))),), "", {}, repository)
    if not path.is_dir() and (len(parts) != 2 or source.startswith(("/", ".", "~"))):
        raise ValueError(f"No checkpoint at {source}: give a file, a folder, a Hub id, or OWNER/NAME/FILE.")
    for layout, names in LAYOUTS.items():
        config = look_for(source, layout, download)
        if config is None:
            continue
        for name in names:
            found = look_for(source, name, download)
            if found is not None:
                weights = _shards(source, found, download) if name.endswith(".index.json") else (found,)
                return CheckpointFiles(source, weights, layout, read_json(config), source)
    if path.is_dir():
        alone = sorted(file for file in path.iterdir() if file.suffix in WEIGHT_SUFFIXES)
        if len(alone) == 1:
            return _one_file(source, alone[0])
        listed = ", ".join(file.name for file in alone) or "none"
        raise ValueError(f"{source} has no config with weights beside it; weights there: {listed}. Give one file.")
    raise ValueError(
        f"{source} has no config.json or open_clip_config.json with weights beside it, or cannot be reached. If the "
        f"weights are a raw file in that repository, give {source}/FILE; `robust-clip models` lists what is known. "
        f"({_reason(source, download)})"
    )


def _reason(source: str, download: Mapping[str, Any]) -> str:
    """Why a Hub id has no config."""
    try:
        return f"there is {cached_file(source, 'config.json', **download)}"
    except OSError as error:
        return str(error).splitlines()[0]


def read_weights(files: CheckpointFiles) -> dict[Any, Any]:
    """What the files hold: names and tensors of a safetensors file, or whatever dict a torch file is.

    Raises:
        ValueError: If a file is damaged, wants to run code, or is something else altogether.
    """
    merged: dict[Any, Any] = {}
    for file in files.weights:
        content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
        if not isinstance(content, Mapping):
            raise ValueError(f"{file} holds a {type(content).__name__}, and a dict of tensors is needed.")
        merged |= content
    return merged


def _one_file(source: str, path: Path) -> CheckpointFiles:
    """A file, with the config that belongs to its name if that stands beside it."""
    if path.name.endswith(".index.json"):
        weights = _shards(str(path.parent), path, {})
    elif path.suffix in WEIGHT_SUFFIXES:
        weights = (path,)
    else:
        raise ValueError(f"{path} is no file of weights: {', '.join(WEIGHT_SUFFIXES)} are read.")
    for layout, names in LAYOUTS.items():
        config = path.parent / layout
        if path.name in names and config.is_file():
            return CheckpointFiles(source, weights, layout, read_json(config), str(path.parent))
    return CheckpointFiles(source, weights, "", {}, str(path.parent))


def look_for(place: str, name: str, download: Mapping[str, Any]) -> Path | None:
    """A file of a folder or Hub repository, or `None` if there is none of that name."""
    found = cached_file(place, name, _raise_exceptions_for_missing_entries=False, **download)
    return None if found is None else Path(found)


def _shards(place: str, index: Path, download: Mapping[str, Any]) -> tuple[Path, ...]:
    names = sorted(set(read_json(index)["weight_map"].values()))
    found = {name: look_for(place, name, download) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise ValueError(f"{place} lacks {missing[0]}, one of {len(names)} parts that {index.name} names.")
    return tuple(path for path in found.values() if path is not None)


def read_json(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ValueError: If it is no JSON, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, and an object is needed.")
    return content


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(_damaged(file, error)) from error


def _read_torch(file: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # Not from `error`: torch's own text advises to run whatever code the file holds.
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            raise ValueError(_damaged(file, "no pickle of tensors and numbers")) from None
        raise ValueError(
            f"{file} is a pickle that asks for more than tensors and numbers: it wants {asked[1]}. Nothing of it was "
            "run. If you trust it, load it where it came from, and save its state dict alone."
        ) from None
    except _DAMAGED as error:
        if "TorchScript" in str(error):
            raise ValueError(
                f"{file} is a TorchScript archive, which holds code. Save the state dict that it carries: "
                "torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)."
            ) from error
        raise ValueError(_damaged(file, error)) from error


def _damaged(file: Path, error: Exception | str) -> str:
    size = file.stat().st_size
    with file.open("rb") as opened:
        if opened.read(20) == b"version https://git-":
            return f"{file} is a Git LFS pointer, not the weights: run `git lfs pull`, or download the file itself."
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"{file} ({size} bytes) is damaged or cut short: {first}. Download it again, and compare its size or sha256 "
        "with the publisher's."
    )
