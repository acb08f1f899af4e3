"""Data sets in folders of one's own: parquet files, shards, or one folder of images per class."""

import glob
from pathlib import Path

import datasets
import pyarrow.parquet
from PIL import Image

from .class_names import split_lines
from .repository import Repository, shard_files

# What a folder of image folders may call its splits.
_SPLITS = ("train", "test", "val", "valid", "validation")


def load_local(path: Path, split: str) -> tuple[datasets.Dataset, list[str] | None]:
    """Rows and, from a `classnames.txt` beside them, class names.

    Args:
        path: A parquet file, or a folder with `{split}.parquet`, with `{split}/*.tar`, with `{split}/` or itself of
            one folder of images per class. Splits may be nested: `gaussian_noise/3`.
        split: Which split.

    Raises:
        ValueError: If the path holds none of these, or not the split.
    """
    file = path if path.is_file() else path / f"{split}.parquet"
    names = file.parent / "classnames.txt"
    class_names = split_lines(names.read_text(encoding="utf-8")) if names.exists() else None
    if file.exists():
        return _load_parquet(file), class_names
    if shard_files(path / split):
        return Repository(path.name, path).load_shards(split), class_names
    folders = [name for name in {split, *_SPLITS} if _holds_folders(path / name)]
    others = {*folders, *(found.stem for found in path.glob("*.parquet"))}
    others |= {shard.parent.name for shard in path.glob("*/*.tar")}
    if split not in folders and (others or "/" in split):
        raise ValueError(f"{path} has no split {split!r}; it has {', '.join(sorted(others)) or 'none of that kind'}.")
    folder = path / split if folders else path
    if not _holds_folders(folder):
        raise ValueError(f"{path} holds neither {split}.parquet nor one folder of images per class.")
    if not any(file.suffix.lower() in Image.registered_extensions() for file in folder.rglob("*")):
        raise ValueError(f"The class folders in {folder} hold no images.")
    # Given a folder, `datasets` would sort files into splits by words such as "test" in their names.
    files = f"{glob.escape(str(folder))}/**"
    rows = datasets.load_dataset("imagefolder", data_files=files, split="train", drop_labels=False)
    return rows, class_names


def _load_parquet(file: Path) -> datasets.Dataset:
    try:
        if pyarrow.parquet.read_metadata(file).num_rows == 0:
            raise ValueError(f"{file} is empty.")
        return datasets.Dataset.from_parquet(str(file))
    except (datasets.exceptions.DatasetGenerationError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"{file} is not a readable parquet file: {error.__cause__ or error}") from error


def _holds_folders(path: Path) -> bool:
    return path.is_dir() and any(child.is_dir() for child in path.iterdir())
