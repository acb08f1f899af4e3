"""One loader for rows of the table, Hub ids, parquet files, shards and image folders."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import datasets

from robust_clip.suggestions import nearest

from .class_names import is_wordnet_id
from .datasets import DATASETS, DatasetRow
from .digits import load_digits
from .images import ImageDataset
from .local import load_local
from .repository import Repository
from .root import names_in, require_root, say_not_in_root


def load_image_dataset(
    name_or_path: str,
    split: str = "test",
    *,
    root: str | None = None,
    class_names: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    first: int | None = None,
) -> ImageDataset:
    """Loads a data set by row name, Hub id, parquet file, folder of `{split}.parquet`, or image folder.

    Args:
        name_or_path: `cifar10`, `uoft-cs/cifar10`, `data/cifar10`, `photos/` or `photos.parquet`.
        split: `train`, `test`, or the source's own split name; for `imagenet_c`, `gaussian_noise/3`.
        root: A folder that is looked into before the Hub: for `owner/name`, laid out as that repository is and then
            read as the row of the table says, else for `name_or_path`, which is taken as it is. What it does not hold
            comes from the Hub, and the log says so.
        class_names: Names in label order, in place of the source's.
        templates: Templates in place of the papers'.
        first: Load only so many rows from the beginning of the split. From the Hub they are streamed, and nothing
            else is fetched. The split is then called `test[:1000]`: a random choice among those is none among all,
            which needs the whole split.

    Raises:
        ValueError: If `root` is wanted and no folder, nothing goes by that name (near ones are named, and the known
            ones listed), the split does not exist (those that do are listed), `first` is not positive, or the class
            names are not as many as the row says.
    """
    _check_first(first)
    if not Path(name_or_path).is_absolute():  # for which there is nothing to look for in a root
        require_root(root)
    name = next((known for known, row in DATASETS.items() if row.hub_id == name_or_path), name_or_path)
    row = DATASETS.get(name)
    local = next((p.absolute() for p in (Path(root or ".") / name_or_path, Path(name_or_path)) if p.exists()), None)
    columns: dict[str, str | None] = {}
    if row and (local is None or (row.hub_id and _repository(row.locate(split)[0], root).folder)):
        return load_row(name, split, root=root, class_names=class_names, templates=templates, first=first)
    if local:
        name = local.stem if local.is_file() else local.name
        rows, found = load_local(local, split)
        found = found if class_names is not None else _without_wordnet_ids(found, rows, row, root)
        columns = {"label_column": "cls"} if {"__key__", "cls"} <= set(rows.column_names) else {}
    elif name.count("/") == 1 and name[0] not in "./~":
        row = DatasetRow(name, image=None, label=None)
        rows, found, columns = _read(name, row, split, root, class_names is None, first)
    else:
        raise ValueError(_nothing_called(name_or_path, root))
    names = class_names if class_names is not None else found
    rows, split = _part(rows, split, first)
    return ImageDataset(rows, name=name, split=split, class_names=names, templates=templates, **columns)


def load_image_datasets(names_or_paths: Iterable[str], split: str, root: str | None) -> list[ImageDataset]:
    """Loads several, and one that is given twice, by whatever name, once.

    Raises:
        ValueError: If two have one name, by which records tell them apart; or as `load_image_dataset`.
    """
    datasets = {given: load_image_dataset(given, split, root=root) for given in dict.fromkeys(names_or_paths)}
    first: dict[str, str] = {}
    for given, dataset in datasets.items():
        other = first.setdefault(dataset.name, given)
        if other != given and dataset.revision != datasets[other].revision:
            raise ValueError(
                f"{other} and {given} are both called {dataset.name}, by which records tell them apart: measure one "
                "at a time, into records of its own, or rename a folder"
            )
    return [datasets[given] for given in first.values()]


def load_row(
    name: str,
    split: str = "test",
    *,
    root: str | None = None,
    class_names: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    first: int | None = None,
) -> ImageDataset:
    """Loads a row of the table from its repository, or from the folder `root/owner/name` in its place.

    Args:
        name: Key of `DATASETS`.
        split: As `load_image_dataset`, and so are the rest.
        root: Folder with stand-ins for repositories.
        class_names: Names in label order.
        templates: Templates.
        first: How many rows to load.

    Raises:
        ValueError: As `load_image_dataset`.
    """
    _check_first(first)
    require_root(root)
    rows, found, columns = _read(name, DATASETS[name], split, root, class_names is None, first)
    names = class_names if class_names is not None else found
    rows, split = _part(rows, split, first)
    return ImageDataset(rows, name=name, split=split, class_names=names, templates=templates, **columns)


def _nothing_called(name: str, root: str | None) -> str:
    """What to say of a name that is none, with those that might have been meant."""
    own = names_in(root)
    near = nearest(name, [*own, *DATASETS], most=3)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    held = f" The folder {root} holds {', '.join(own) or 'nothing'}." if root is not None else ""
    known = ", ".join(sorted(DATASETS))
    return f"No data set {name!r}.{meant}{held} Give a path, a Hub id (owner/name), or one of {known}."


def _part(rows: datasets.Dataset, split: str, first: int | None) -> tuple[datasets.Dataset, str]:
    """The first rows, and what they are called."""
    if first is None or len(rows) < first:
        return rows, split
    return rows.select(range(first)), f"{split}[:{first}]"


def _check_first(first: int | None) -> None:
    if first is not None and first < 1:
        raise ValueError(f"first must be at least 1, or None for the whole split, got {first}.")


def _repository(hub_id: str, root: str | None) -> Repository:
    """The folder that stands in for a repository, if there is one, else the Hub."""
    folder = Path(root, hub_id).absolute() if root is not None else None
    return Repository(hub_id, folder if folder and folder.is_dir() else None)


def _read(
    name: str, row: DatasetRow, split: str, root: str | None, named: bool, first: int | None
) -> tuple[datasets.Dataset, list[str] | None, dict[str, str | None]]:
    """Rows, class names if they are wanted, and columns, as the row of the table says they are."""
    if first is not None and row.names.column:
        raise ValueError(f"{name}: class names are read off the whole split, so it cannot be loaded in part.")
    if row.hub_id is None:
        return load_digits(split), None, {}
    hub_id, hub_split = row.locate(split)
    repository = _repository(hub_id, root)
    if root is not None and repository.folder is None:
        say_not_in_root(root, name, hub_id)
    rows = (repository.load_shards if row.in_shards else repository.load)(hub_split, first)
    label = row.label or ("cls" if row.in_shards and "cls" in rows.column_names else None)
    for column in (row.image, label, row.captions, row.names.column):
        if column not in (None, *rows.column_names):
            raise ValueError(f"{name} has no column {column!r}; its columns are {rows.column_names}.")
    names = None
    if named and not row.captions:
        found = repository.class_names() or _label_names(rows, label)
        try:
            names = row.names.resolve(found, rows, label, lambda other: _repository(other, root).class_names(True))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    if row.names.column:
        # Else it would be taken for captions.
        rows = rows.remove_columns(row.names.column)
    return rows, names, {"image_column": row.image, "label_column": label, "text_column": row.captions}


def _label_names(rows: datasets.Dataset, label: str | None) -> list[str] | None:
    """Names of the classes of a column, or of the only column with classes."""
    features = [rows.features[label]] if label else list(rows.features.values())
    named = [feature.names for feature in features if isinstance(feature, datasets.ClassLabel)]
    return list(named[0]) if len(named) == 1 else None


def _without_wordnet_ids(
    found: list[str] | None, rows: datasets.Dataset, row: DatasetRow | None, root: str | None
) -> list[str] | None:
    """Class names of a folder, in words if it goes by the name of a row that has them for its WordNet ids."""
    names = found or _label_names(rows, None)
    if row is None or not names or not all(map(is_wordnet_id, names)):
        return found
    if not row.names.wordnet and not row.names.repository:
        return found
    # A folder may hold fewer classes than the data set has.
    words = replace(row.names, count=None)
    return words.resolve(names, rows, None, lambda other: _repository(other, root).class_names(True))
