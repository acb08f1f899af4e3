"""Published checkpoints, whatever their format, as an ordinary CLIP of Hugging Face; and back to open_clip's names."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPProcessor
from transformers.utils import cached_file

from .checkpoint_files import WEIGHT_SUFFIXES as WEIGHT_SUFFIXES
from .checkpoint_files import find_files, sha256
from .open_clip_config import write_open_clip
from .open_clip_names import name_table, to_open_clip
from .processor import load_processor
from .published import ConvertedCheckpoint, read_checkpoint
from .registry import find_checkpoint

TARGETS = ("huggingface", "open_clip")
_RECORD = "conversion.json"


def needs_conversion(source: str | os.PathLike[str], *, ask_hub: bool = False, **download: Any) -> bool:
    """Whether this is something that `CLIPModel.from_pretrained` cannot read and `load_published` might.

    Args:
        source: What a user wants loaded.
        ask_hub: Whether to look on the Hub for `open_clip_config.json`; otherwise nothing is downloaded.
        download: As of `load_published`.
    """
    source, path = str(source), Path(source)
    if path.is_dir():
        alone = sum(file.suffix in WEIGHT_SUFFIXES for file in path.iterdir()) == 1
        return not (path / "config.json").is_file() and ((path / "open_clip_config.json").is_file() or alone)
    row = find_checkpoint(source)
    if path.is_file() or source.startswith("hf-hub:") or (row is not None and row.format != "huggingface"):
        return True
    if len(source.split("/")) > 2 and source.endswith(WEIGHT_SUFFIXES):
        return True
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    return ask_hub and cached_file(source, "open_clip_config.json", **quiet, **download) is not None


def load_published(
    source: str | os.PathLike[str],
    *,
    base: str | None = None,
    hidden_act: str | None = None,
    unchecked: bool = False,
    **download: Any,
) -> ConvertedCheckpoint:
    """Reads a checkpoint of any known format: of Hugging Face, open_clip, OpenAI, or an image tower alone.

    Args:
        source: A file, a folder, a Hub id, or `OWNER/NAME/FILE`.
        base: The clean CLIP that it was trained from, as a folder or Hub id. An image tower alone takes its text tower
            from there, by default from the one that the registry names; a whole model is compared with it.
        hidden_act: `quick_gelu` or `gelu`, where neither the checkpoint nor the registry says.
        unchecked: Take `base` and `hidden_act` at their word, whatever contradicts them.
        download: `revision`, `token`, `cache_dir` and what else `transformers` takes for finding a file of `source`.

    Raises:
        ValueError: If it cannot become a `CLIPModel`, something is missing or contradictory, or a file is damaged.
        OSError: If the Hub cannot be reached.
    """
    return read_checkpoint(str(source), base=base, hidden_act=hidden_act, unchecked=unchecked, download=download)


def published_processor(
    source: str | os.PathLike[str], config: Mapping[str, Any], *, base: str | None = None, **download: Any
) -> CLIPProcessor:
    """The processor of a checkpoint whose model is loaded; no weights are read.

    Args:
        source: As of `load_published`.
        config: Of the model, with `image_mean` and `image_std`.
        base: Where a tokenizer is, if it is not beside the checkpoint; by default the registry's.
        download: As of `load_published`.

    Raises:
        ValueError: If no tokenizer is found, or it does not fit.
    """
    row = find_checkpoint(str(source))
    base = base or (row.base if row is not None else None)
    places = [(find_files(str(source), **download).place, download), *([(base, {})] if base else [])]
    return load_processor(config, places, str(source))


def convert_checkpoint(
    converted: ConvertedCheckpoint,
    out: str | os.PathLike[str],
    to: str,
    *,
    also: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Writes a checkpoint: everything or nothing.

    Args:
        converted: From `load_published`.
        out: A folder that is not there yet, or is empty.
        to: `huggingface`, for a folder that stock `CLIPModel` and `CLIPProcessor` load, or `open_clip`.
        also: Writes what else belongs into the folder, given where that is being made; it has the checkpoint by then.

    Returns:
        The record of the conversion, with the digest of what was written; `conversion.json` keeps it.

    Raises:
        ValueError: If the folder has something in it, or no tokenizer can be found, or open_clip cannot express it.
    """
    if to not in TARGETS:
        raise ValueError(f"A checkpoint is converted to {' or '.join(TARGETS)}, got {to!r}.")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty; give a new folder for the converted checkpoint.")
    processor = load_processor(converted.config, converted.places, converted.source)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as partial:
        folder = Path(partial) / out.name
        folder.mkdir()
        if to == "huggingface":
            _write_hugging_face(converted, processor, folder)
        else:
            _write_open_clip(converted, processor, folder)
        written = {file.name: sha256(file) for file in sorted(folder.glob("*.safetensors"))}
        record = {**converted.config["conversion"], "written": {"format": to, "sha256": written}}
        (folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if also is not None:
            also(folder)
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return record


def _write_hugging_face(converted: ConvertedCheckpoint, processor: CLIPProcessor, folder: Path) -> None:
    config = CLIPConfig.from_dict(converted.config)
    model = CLIPModel.from_pretrained(None, config=config, state_dict=converted.weights)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _write_open_clip(converted: ConvertedCheckpoint, processor: CLIPProcessor, folder: Path) -> None:
    config: Mapping[str, Any] = CLIPConfig.from_dict(converted.config).to_dict()
    described = json.dumps(write_open_clip(config), indent=2) + "\n"
    (folder / "open_clip_config.json").write_text(described, encoding="utf-8")
    layers = [config[f"{tower}_config"]["num_hidden_layers"] for tower in ("vision", "text")]
    weights = to_open_clip(converted.weights, name_table(*layers))
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    processor.tokenizer.save_pretrained(folder)
