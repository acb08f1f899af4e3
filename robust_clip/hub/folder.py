"""A folder of weights as it goes to the Hub: what it holds, whether that loads, and which files are part of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModel

from robust_clip.models import adapters, prompt_files
from robust_clip.models.packaged import PACKAGED, public_name
from robust_clip.models.prompt_files import ADAPTER_FOLDER

from .card import Kind
from .card_data import is_hub_id
from .checkpoint_files import read_json

# What says what a folder is, and the weights that go with it.
_WEIGHTS: dict[Kind, tuple[str, str]] = {
    "adapter": (adapters.CONFIG_NAME, adapters.WEIGHTS_NAME),
    "prompts": (prompt_files.CONFIG_NAME, prompt_files.WEIGHTS_NAME),
    "model": ("config.json", "model.safetensors"),
}
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_SENT = (".json", ".safetensors", ".txt", ".md", ".yaml")
_SENT_BY_NAME = ("emissions.csv", "LICENSE", "LICENCE", "NOTICE")
_PLOTS = "accuracy-*.png"
# Of a finished measurement; examples of images stay at home, since they belong to the data set.
_RECORDS = ("row.json", "retrieval.json", "samples.parquet", "battery.json")


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a checkpoint, an adapter or prompts.

    Args:
        path: Of the folder.
        kind: What it holds.
        config: The JSON that says so.
        record: What the Trainer put on record of the training; empty if nothing.
    """

    path: Path
    kind: Kind
    config: dict[str, Any]
    record: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> "ModelFolder":
        """Look what a folder holds.

        Raises:
            ValueError: If it holds no configuration, or one that cannot be read.
        """
        path = Path(path)
        for kind, (name, _) in _WEIGHTS.items():
            if (path / name).is_file():
                config = read_json(path / name)
                record = config.get("robustness")
                if record is None and (path / adapters.RECORD_NAME).is_file():
                    record = read_json(path / adapters.RECORD_NAME)
                stock = kind != "model" or config.get("model_type") == "clip"
                return cls(path, kind if stock else "prompted", config, record or {})
        known = ", ".join(name for name, _ in _WEIGHTS.values())
        raise ValueError(f"{path} holds nothing to load: a folder of weights has one of {known}.")

    @property
    def base_model(self) -> str | None:
        """Hub id or packaged name of the checkpoint that this came from or belongs to; `None` if not on record.

        Where a base stood on somebody's disk is nobody's business, and of no use to others.
        """
        name = self._named_base or self.record.get("base")
        return shared_name(str(name)) if name else None

    @property
    def base_revision(self) -> str | None:
        """Commit or digest of the base, if that is on record."""
        revision = self.config.get("revision") if self.kind == "adapter" else self._base.get("revision")
        return str(revision) if revision else None

    @property
    def _base(self) -> dict[str, Any]:
        """What prompts, alone or in a model, say of their base."""
        return self.config.get("base") or {}

    @property
    def _named_base(self) -> str | None:
        return self.config.get("base_model_name_or_path") if self.kind == "adapter" else self._base.get("name")

    def check(self) -> None:
        """Refuse a folder that others could not load.

        Raises:
            ValueError: If weights are missing, cut off, pickled, or do not fit the configuration; if a checkpoint
                has no processor or tokenizer; or if an adapter or prompts name no base that others can load.
        """
        self._check_weights()
        if self.kind in ("adapter", "prompts"):
            if self.base_model is None:
                key = "base_model_name_or_path" if self.kind == "adapter" else "base.name"
                raise ValueError(
                    f"{self.path} belongs to the base {self._named_base!r}, which others cannot load: set {key} in "
                    f"{_WEIGHTS[self.kind][0]} to a Hub id such as openai/clip-vit-base-patch32."
                )
            return
        self._check_keys()
        processor, tokenizer = ("preprocessor_config.json", "processor_config.json"), ("tokenizer.json", "vocab.json")
        for what, names in (("image processor", processor), ("tokenizer", tokenizer)):
            if not any((self.path / name).is_file() for name in names):
                raise ValueError(
                    f"{self.path} has no {what} ({' or '.join(names)}), so no pipeline would load it: "
                    "CLIPProcessor.from_pretrained(BASE).save_pretrained(FOLDER)."
                )

    def files(self, rows: str | Path | None = None) -> dict[str, Path]:
        """What goes to the Hub, by its path there; pickles, checkpoints and logs do not.

        Args:
            rows: Folder of measurements, in place of `records` in this one.
        """
        places = [self.path] + ([self.path / ADAPTER_FOLDER] if (self.path / ADAPTER_FOLDER).is_dir() else [])
        found = (path for place in places for path in sorted(place.iterdir()) if _is_sent(path))
        own = {path.relative_to(self.path).as_posix(): path for path in found}
        return own | records(rows or self.path / "records")

    def left_out(self) -> list[str]:
        """Names of what lies in the folder and does not go to the Hub."""
        names = {path.name for path in self.path.iterdir() if not path.name.startswith(".")}
        return sorted(names - {name.split("/")[0] for name in self.files()})

    def _weight_files(self) -> list[Path]:
        name = _WEIGHTS["model" if self.kind == "prompted" else self.kind][1]
        index = self.path / _INDEX
        if name == "model.safetensors" and index.is_file():
            return [self.path / shard for shard in sorted(set(read_json(index)["weight_map"].values()))]
        return [self.path / name]

    def _check_weights(self) -> None:
        for file in self._weight_files():
            if not file.is_file():
                pickled = sorted(found.name for pattern in _PICKLES for found in self.path.glob(pattern))
                hint = f"; it holds {', '.join(pickled)}, which are pickled: save as safetensors" if pickled else ""
                raise ValueError(f"{self.path} has no {file.name}{hint}.")
            try:
                with safe_open(file, framework="pt") as opened:
                    opened.keys()
            except SafetensorError as error:
                raise ValueError(f"{file} is damaged ({error}): save the weights again.") from error

    def _check_keys(self) -> None:
        """Names and shapes, against a model without weights, so that nothing is loaded."""
        found: dict[str, list[int]] = {}
        for file in self._weight_files():
            with safe_open(file, framework="pt") as opened:
                found |= {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118
        try:
            with torch.device("meta"):
                model = AutoModel.from_config(AutoConfig.from_pretrained(self.path))
        except (ValueError, OSError) as error:
            raise ValueError(f"{self.path}/config.json makes no model: {error}") from error
        wanted = {key: list(value.shape) for key, value in model.state_dict().items()}
        for key, shape in wanted.items():
            if found.get(key, []) != shape:
                raise ValueError(f"{self.path}: {key} should have shape {shape}, got {found.get(key, 'nothing')}.")


def records(folder: str | Path) -> dict[str, Path]:
    """Files of the finished measurements below a folder, by their path on the Hub."""
    folder = Path(folder)
    finished = {row.parent for name in _RECORDS[:2] for row in folder.rglob(name)}
    kept = (parent / name for parent in sorted(finished) for name in _RECORDS)
    return {f"records/{path.relative_to(folder).as_posix()}": path for path in kept if path.is_file()}


def shared_name(path: str) -> str | None:
    """What others call a checkpoint: its Hub id or packaged name; `None` for a folder of somebody's disk.

    >>> shared_name("openai/clip-vit-base-patch32"), shared_name("nano_clip"), shared_name("/home/me/out")
    ('openai/clip-vit-base-patch32', 'nano_clip', None)
    """
    name = public_name(path)
    return name if name in PACKAGED or (is_hub_id(name) and not Path(name).exists()) else None


def names(folder: str | Path) -> Iterator[str]:
    """Paths of all files below a folder, as the Hub writes them."""
    folder = Path(folder)
    yield from (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _is_sent(path: Path) -> bool:
    if not path.is_file() or path.name.startswith("."):
        return False
    return path.suffix in _SENT or path.name in _SENT_BY_NAME or path.match(_PLOTS)
