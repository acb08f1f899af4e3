"""Data sets as rows of a table, and one loader for rows, Hub ids, parquet files and image folders."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow.parquet
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from PIL import Image

from .digits import load_digits
from .images import ImageDataset


@dataclass(frozen=True)
class DatasetRow:
    """Where a data set lives and what its columns are called.

    Attributes:
        hub_id: Repository on the Hub, or `None` for a set that comes with an installed package.
        test: Name of the split that papers evaluate on.
        image: Image column.
        label: Label column.
        licence: As stated by the source.
    """

    hub_id: str | None
    test: str = "test"
    image: str = "image"
    label: str = "label"
    licence: str = "unknown"


DATASETS: dict[str, DatasetRow] = {
    "cifar10": DatasetRow("uoft-cs/cifar10", image="img"),
    "cifar100": DatasetRow("uoft-cs/cifar100", image="img", label="fine_label"),
    "digits": DatasetRow(None, licence="CC-BY-4.0"),
    "dtd": DatasetRow("clip-benchmark/wds_vtab-dtd", image="webp", label="cls"),
    "eurosat": DatasetRow("clip-benchmark/wds_vtab-eurosat", image="webp", label="cls", licence="MIT"),
    "food101": DatasetRow("ethz/food101", test="validation"),
    "gtsrb": DatasetRow("clip-benchmark/wds_gtsrb", image="webp", label="cls"),
    "imagenet": DatasetRow("clip-benchmark/wds_imagenet1k", image="jpg", label="cls", licence="non-commercial"),
    "mnist": DatasetRow("ylecun/mnist", licence="MIT"),
    "stl10": DatasetRow("clip-benchmark/wds_stl10", image="webp", label="cls"),
    "tiny_imagenet": DatasetRow("zh-plus/tiny-imagenet", test="valid", licence="non-commercial"),
}

# What a folder of image folders may call its splits.
_SPLITS = ("train", "test", "val", "valid", "validation")


def load_image_dataset(
    name_or_path: str,
    split: str = "test",
    *,
    root: str | None = None,
    class_names: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
) -> ImageDataset:
    """Loads a data set by row name, Hub id, parquet file, folder of `{split}.parquet`, or image folder.

    Args:
        name_or_path: `cifar10`, `uoft-cs/cifar10`, `data/cifar10`, `photos/` or `photos.parquet`.
        split: `train`, `test`, or the source's own split name.
        root: A folder whose sub-folder `name_or_path`, where there is one, is used in place of the Hub.
        class_names: Names in label order, in place of the source's.
        templates: Templates in place of the papers'.

    Raises:
        ValueError: If nothing goes by that name (the known ones are listed) or the split does not exist.
    """
    local = next((p.absolute() for p in (Path(root or ".") / name_or_path, Path(name_or_path)) if p.exists()), None)
    name = next((known for known, row in DATASETS.items() if row.hub_id == name_or_path), name_or_path)
    row = DATASETS.get(name)
    columns: dict[str, str | None] = {}
    if local:
        name = local.stem if local.is_file() else local.name
        rows, found_names = _load_local(local, split)
    elif name == "digits":
        rows, found_names = load_digits(split), None
    elif row and row.hub_id:
        rows, found_names = _load_hub(row.hub_id, row.test if split == "test" else split)
        columns = {"image_column": row.image, "label_column": row.label}
    elif name.count("/") == 1 and name[0] not in "./~":
        rows, found_names = _load_hub(name, split)
    else:
        known = ", ".join(sorted(DATASETS))
        raise ValueError(f"No data set {name_or_path!r}: not a path, not a Hub id (owner/name), not one of {known}.")
    class_names = class_names if class_names is not None else found_names
    return ImageDataset(rows, name=name, split=split, class_names=class_names, templates=templates, **columns)


def _load_local(path: Path, split: str) -> tuple[datasets.Dataset, list[str] | None]:
    file = path if path.is_file() else path / f"{split}.parquet"
    names = file.parent / "classnames.txt"
    class_names = names.read_text().splitlines() if names.exists() else None
    if file.exists():
        try:
            if pyarrow.parquet.read_metadata(file).num_rows == 0:
                raise ValueError(f"{file} is empty.")
            return datasets.Dataset.from_parquet(str(file)), class_names
        except (datasets.exceptions.DatasetGenerationError, pyarrow.ArrowInvalid) as error:
            raise ValueError(f"{file} is not a readable parquet file: {error.__cause__ or error}") from error
    folders = [name for name in {split, *_SPLITS} if _holds_folders(path / name)]
    if split not in folders and (splits := {*folders, *(found.stem for found in path.glob("*.parquet"))}):
        raise ValueError(f"{path} has no split {split!r}; it has {', '.join(sorted(splits))}.")
    folder = path / split if folders else path
    if not _holds_folders(folder):
        raise ValueError(f"{path} holds neither {split}.parquet nor one folder of images per class.")
    if not any(file.suffix.lower() in Image.registered_extensions() for file in folder.rglob("*")):
        raise ValueError(f"The class folders in {folder} hold no images.")
    # Given a folder, `datasets` would sort files into splits by words such as "test" in their names.
    files = f"{glob.escape(str(folder))}/**"
    rows = datasets.load_dataset("imagefolder", data_files=files, split="train", drop_labels=False)
    return rows, class_names


def _holds_folders(path: Path) -> bool:
    return path.is_dir() and any(child.is_dir() for child in path.iterdir())


def _load_hub(repository: str, split: str) -> tuple[datasets.Dataset, list[str] | None]:
    try:
        rows = datasets.load_dataset(repository, split=split)
    except (ConnectionError, FileNotFoundError) as error:
        raise ValueError(
            f"The data set {repository!r} cannot be reached on the Hub ({error}). Check the name and the network, or "
            "give the path of a local copy."
        ) from error
    try:
        file = hf_hub_download(repository, "classnames.txt", repo_type="dataset")
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return rows, None
    return rows, Path(file).read_text().splitlines()
