"""Images with class labels or captions, undecoded, as a data set of PyTorch."""

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import datasets
import numpy as np
from torch.utils.data import Dataset

from .captions import CAPTION_COLUMNS, read_captions
from .class_names import is_wordnet_id
from .prompts import templates_for
from .revision import rows_revision

# Mirrored, these images mean something else.
_HANDED = frozenset({"digits", "gtsrb", "mnist", "noto_emoji_captions", "svhn"})


class ImageDataset(Dataset):  # type: ignore[type-arg]
    """Images with class labels or captions, undecoded, each with its position in the split.

    Args:
        rows: A `datasets.Dataset` with an image column, and a column of labels (`ClassLabel` or integers) or of
            captions (text, or a list of texts for each image), or both.
        name: What records and error messages call it.
        split: The split that `rows` is.
        class_names: Names in label order; by default those of the `ClassLabel` feature.
        templates: Sentences with `{}` for the class name; by default the papers' for `name`.
        image_column: By default the only column of type `Image`, or the one called `image`.
        label_column: By default the only `ClassLabel` column, or the one called `label`; none where there are captions
            and no `ClassLabel`.
        text_column: Column of captions; by default the first of `text`, `caption`, `captions` and `txt`. In `txt`,
            each line is a caption.

    Attributes:
        source: The name that it was loaded by, whatever `called` makes of it: what protocols and templates go by.
        captions: For each image the tuple of its captions; `None` without a column of captions.

    Raises:
        ValueError: If the split is empty, a column cannot be found, an image has no caption or an empty one, a class
            name is not a string or a WordNet id, a template has no `{}`, or a label is not an integer or lies beyond
            the class names.
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
        text_column: str | None = None,
    ) -> None:
        if len(rows) == 0:
            raise ValueError(f"{name}: the split {split!r} is empty.")
        self.name, self.source, self.split, self.epoch = name, name, split, 0
        self.text_column = text_column or next((c for c in CAPTION_COLUMNS if c in rows.column_names), None)
        self.image_column = image_column or _only_column(rows, datasets.Image, name, "image")
        self.label_column = label_column or _label_column(rows, name, has_captions=self.text_column is not None)
        for column in (self.image_column, self.label_column, self.text_column):
            if column not in (None, *rows.column_names):
                raise ValueError(f"{name} has no column {column!r}; its columns are {rows.column_names}.")
        self.rows = rows.cast_column(self.image_column, datasets.Image(decode=False))
        self.captions = read_captions(rows, self.text_column, f"{name}/{split}") if self.text_column else None
        self.class_names = self._class_names(class_names) if self.label_column else None
        self.templates = _checked_templates(name, templates or templates_for(name))
        self.labels = self._checked_labels()

    @cached_property
    def revision(self) -> str:
        """Identity of images and labels, the same wherever the data lie; computed when it is first asked for."""
        return rows_revision(self.rows, self.image_column, self.labels)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[int(index)]
        source = f"{self.name}/{self.split} row {index}"
        example = {"image": row[self.image_column], "index": int(index), "source": source}
        example |= {"epoch": self.epoch, "may_flip": self.name not in _HANDED}
        example["label"] = -1 if self.labels is None else int(self.labels[index])
        if self.captions:
            example["captions"] = self.captions[index]
        elif self.class_names:
            example["captions"] = tuple(t.replace("{}", self.class_names[example["label"]]) for t in self.templates)
        return example

    def set_epoch(self, epoch: int) -> None:
        """Makes random augmentation and captions depend on the epoch; data loaders call it."""
        self.epoch = epoch

    def with_templates(self, templates: Sequence[str]) -> "ImageDataset":
        """The same images, and the same revision of them, under other templates.

        Raises:
            ValueError: If a template has no `{}`.
        """
        other = copy.copy(self)
        other.templates = _checked_templates(self.name, templates)
        return other

    def called(self, name: str) -> "ImageDataset":
        """The same under another name in records and error messages, as parts of one data set need one each."""
        other = copy.copy(self)
        other.name = name
        return other

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
        labels = [new_label[int(label)] for label in self.labels[kept]]
        rows = rows.add_column(self.label_column, labels, feature=datasets.ClassLabel(names=list(names)))
        columns = {
            "image_column": self.image_column,
            "label_column": self.label_column,
            "text_column": self.text_column,
        }
        kept_ones = ImageDataset(rows, name=self.name, split=self.split, templates=self.templates, **columns)
        kept_ones.source = self.source
        return kept_ones

    def select(self, kept: np.ndarray[Any, Any], split: str) -> "ImageDataset":
        """Some of the images, with indices of their own, under another name of the split.

        Args:
            kept: Rows of this data set.
            split: What records call the result.
        """
        other = copy.copy(self)
        other.__dict__.pop("revision", None)
        other.rows, other.split = self.rows.select(kept), split
        other.labels = None if self.labels is None else self.labels[kept]
        other.captions = None if self.captions is None else tuple(self.captions[row] for row in kept)
        return other

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
            if is_wordnet_id(name):
                raise ValueError(
                    f"{self.name}: the class name {name!r} is a WordNet id, which says nothing to a text tower; put a "
                    "classnames.txt with one name a line, in label order, beside the data, or pass class_names."
                )
        return [name.replace("_", " ") for name in names]

    def _checked_labels(self) -> np.ndarray[Any, Any] | None:
        if self.label_column is None or self.class_names is None:
            return None
        labels = np.asarray(self.rows[self.label_column][:])
        if labels.dtype.kind not in "iu":
            raise ValueError(
                f"{self.name}/{self.split}: the labels in column {self.label_column!r} must all be integers, got "
                f"{self.rows.features[self.label_column]}, perhaps with gaps."
            )
        bad = np.flatnonzero((labels < 0) | (labels >= len(self.class_names)))
        if bad.size:
            raise ValueError(
                f"{self.name}/{self.split} row {bad[0]}: label {labels[bad[0]]} lies outside the "
                f"{len(self.class_names)} class names (0 to {len(self.class_names) - 1}); {bad.size} such rows."
            )
        return labels


def _label_column(rows: datasets.Dataset, name: str, has_captions: bool) -> str | None:
    has_classes = any(isinstance(feature, datasets.ClassLabel) for feature in rows.features.values())
    return _only_column(rows, datasets.ClassLabel, name, "label") if has_classes or not has_captions else None


def _only_column(rows: datasets.Dataset, kind: type, name: str, fallback: str) -> str:
    found: list[str] = [column for column, feature in rows.features.items() if isinstance(feature, kind)]
    if len(found) == 1:
        return found[0]
    if fallback in rows.column_names:
        return fallback
    raise ValueError(
        f"{name}: expected one {kind.__name__} column, found {found or 'none'} among {rows.column_names}; "
        "pass image_column or label_column."
    )


def _checked_templates(name: str, templates: Sequence[str]) -> tuple[str, ...]:
    for template in templates:
        if not isinstance(template, str) or "{}" not in template:
            raise ValueError(f"{name}: a template needs a {{}} where the class name goes, got {template!r}.")
    return tuple(templates)
