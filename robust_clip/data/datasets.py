"""Data sets as rows of a table, and one loader for rows, Hub ids, parquet files and image folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from torch.utils.data import Dataset

from .digits import load_digits
from .prompts import templates_for


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

# Mirrored, these images mean something else.
_HANDED = frozenset({"digits", "gtsrb", "mnist", "noto_emoji_captions", "svhn"})


class ImageDataset(Dataset):  # type: ignore[type-arg]
    """Images with class labels or captions, undecoded, each with its position in the split.

    Args:
        rows: A `datasets.Dataset` with an image column and a `ClassLabel`, integer or text column.
        name: What records and error messages call it.
        split: The split that `rows` is.
        class_names: Names in label order; by default those of the `ClassLabel` feature.
        templates: Sentences with `{}` for the class name; by default the papers' for `name`.
        image_column: By default the only column of type `Image`.
        label_column: By default the only `ClassLabel` column.

    Raises:
        ValueError: If the split is empty, a column cannot be found, a class name is not a string or a template has
            no `{}`, or a label lies beyond the class names.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        *,
        name: str = "dataset",
        split: str = "train",
        class_names: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        if len(rows) == 0:
            raise ValueError(f"{name}: the split {split!r} is empty.")
        self.name, self.split, self.epoch = name, split, 0
        self.revision = str(rows._fingerprint)
        image_column = image_column or _only_column(rows, datasets.Image, name)
        self.image_column = image_column
        self.rows = rows.cast_column(image_column, datasets.Image(decode=False))
        self.text_column = next((column for column in ("text", "caption") if column in rows.column_names), None)
        self.label_column = label_column or (
            None if self.text_column else _only_column(rows, datasets.ClassLabel, name, "label")
        )
        self.class_names = self._class_names(class_names) if self.label_column else None
        self.templates = _checked_templates(name, templates or templates_for(name))
        self.labels = self._checked_labels()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[int(index)]
        example = {"image": row[self.image_column], "index": int(index), "source": f"{self.name}/{self.split}"}
        example |= {"epoch": self.epoch, "may_flip": self.name not in _HANDED}
        example["label"] = -1 if self.labels is None else int(self.labels[index])
        if self.text_column:
            example["captions"] = (row[self.text_column],)
        elif self.class_names:
            example["captions"] = tuple(t.replace("{}", self.class_names[example["label"]]) for t in self.templates)
        return example

    def set_epoch(self, epoch: int) -> None:
        """Makes random augmentation and captions depend on the epoch; data loaders call it."""
        self.epoch = epoch

    def with_templates(self, templates: Sequence[str]) -> "ImageDataset":
        """The same images under other templates."""
        return ImageDataset(
            self.rows,
            name=self.name,
            split=self.split,
            class_names=self.class_names,
            templates=templates,
            image_column=self.image_column,
            label_column=self.label_column,
        )

    def keep_classes(self, names: Sequence[str]) -> "ImageDataset":
        """The images of some classes only, relabelled in the order of `names`.

        Raises:
            ValueError: If a name is not among the class names.
        """
        if self.class_names is None or self.labels is None:
            raise ValueError(f"{self.name} has captions, not classes, so classes cannot be selected.")
        unknown = [name for name in names if name not in self.class_names]
        if unknown:
            raise ValueError(f"{self.name} has no class {unknown[0]!r}; its classes are {self.class_names}.")
        new_label = {self.class_names.index(name): position for position, name in enumerate(names)}
        kept = np.flatnonzero(np.isin(self.labels, list(new_label)))
        rows = self.rows.select(kept).remove_columns([self.label_column])
        feature = datasets.ClassLabel(names=list(names))
        rows = rows.add_column("label", [new_label[int(label)] for label in self.labels[kept]], feature=feature)
        return ImageDataset(rows, name=self.name, split=self.split, templates=self.templates)

    def _class_names(self, given: Sequence[str] | None) -> list[str]:
        names = given if given is not None else getattr(self.rows.features[self.label_column], "names", None)
        if not names:
            raise ValueError(
                f"{self.name}: column {self.label_column!r} carries no class names; put a classnames.txt with one "
                "name a line beside the data, or pass class_names."
            )
        for name in names:
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"{self.name}: class names must be non-empty strings, got {name!r}; quote it.")
        return [name.replace("_", " ") for name in names]

    def _checked_labels(self) -> np.ndarray[Any, Any] | None:
        if self.label_column is None or self.class_names is None:
            return None
        labels = np.asarray(self.rows[self.label_column][:])
        bad = np.flatnonzero((labels < 0) | (labels >= len(self.class_names)))
        if bad.size:
            raise ValueError(
                f"{self.name}/{self.split} row {bad[0]}: label {labels[bad[0]]} lies outside the "
                f"{len(self.class_names)} class names (0 to {len(self.class_names) - 1}); {bad.size} such rows."
            )
        return labels


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
    local = next((p for p in (Path(root or ".") / name_or_path, Path(name_or_path)) if p.exists()), None)
    name = local.stem if local else name_or_path
    row = DATASETS.get(name, DatasetRow(None))
    columns: dict[str, str | None] = {"image_column": None, "label_column": None}
    if local:
        rows, found_names = _load_local(local, split)
    elif name_or_path == "digits":
        rows, found_names = load_digits(split), None
    elif name_or_path in DATASETS or "/" in name_or_path:
        repository = row.hub_id or name_or_path
        hub_split = row.test if split == "test" else split
        rows, found_names = _load_hub(repository, hub_split)
        if row.hub_id:
            columns = {"image_column": row.image, "label_column": row.label}
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
        return datasets.Dataset.from_parquet(str(file)), class_names
    parquets = sorted(found.stem for found in path.glob("*.parquet"))
    if parquets:
        raise ValueError(f"{path} has no split {split!r}; it has {', '.join(parquets)}.")
    folder = path / split if (path / split).is_dir() else path
    if not any(child.is_dir() for child in folder.iterdir()):
        raise ValueError(f"{path} holds neither {split}.parquet nor one folder of images per class.")
    return datasets.load_dataset("imagefolder", data_dir=str(folder), split="train"), class_names


def _load_hub(repository: str, split: str) -> tuple[datasets.Dataset, list[str] | None]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        rows = datasets.load_dataset(repository, split=split)
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise ValueError(
            f"The data set {repository!r} cannot be reached on the Hub ({error}). Check the name and the network, or "
            "give the path of a local copy."
        ) from error
    try:
        file = hf_hub_download(repository, "classnames.txt", repo_type="dataset")
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return rows, None
    return rows, Path(file).read_text().splitlines()


def _only_column(rows: datasets.Dataset, kind: type, name: str, fallback: str | None = None) -> str:
    found = [column for column, feature in rows.features.items() if isinstance(feature, kind)]
    if len(found) == 1:
        return found[0]
    if fallback in rows.column_names:
        return str(fallback)
    raise ValueError(
        f"{name}: expected one {kind.__name__} column, found {found or 'none'} among {rows.column_names}; "
        "pass image_column or label_column."
    )


def _checked_templates(name: str, templates: Sequence[str]) -> tuple[str, ...]:
    for template in templates:
        if not isinstance(template, str) or "{}" not in template:
            raise ValueError(f"{name}: a template needs a {{}} where the class name goes, got {template!r}.")
    return tuple(templates)
