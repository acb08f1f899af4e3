"""Rows with classes or captions, undecoded, and every mistake in them."""

import copy

import datasets
import numpy as np
import pytest

from robust_clip.data import ImageDataset
from tests.conftest import coloured_rows
from tests.data.conftest import encoded, picture

IMAGES = [encoded(picture(seed=seed)) for seed in range(4)]


def table(**columns):
    """A data set of four images and other columns, as its values say."""
    features = {"image": datasets.Image()}
    for name, values in columns.items():
        kind = datasets.Value("int64" if isinstance(values[0], int) else "string")
        features[name] = datasets.ClassLabel(names=["cat", "dog"]) if name.startswith("label") else kind
    return datasets.Dataset.from_dict({"image": IMAGES, **columns}, datasets.Features(features))


def test_an_example_is_undecoded_and_knows_its_row(coloured):
    example = coloured[5]
    assert example["image"]["bytes"].startswith(b"\x89PNG")
    assert (example["index"], example["label"], example["source"]) == (5, 2, "coloured/test row 5")
    assert example["captions"] == ("This is a photo of a blue",)
    assert len(coloured) == 24
    assert coloured.class_names == ["red", "green", "blue"]


def test_captions_take_the_place_of_classes():
    dataset = ImageDataset(table(text=["a", "b", "c", "d"]), templates=["a {}"])
    assert dataset.class_names is None
    assert (dataset[2]["label"], dataset[2]["captions"]) == (-1, ("c",))


def test_images_may_have_captions_and_classes():
    dataset = ImageDataset(table(label=[0, 1, 1, 0], caption=["a", "b", "c", "d"]))
    assert dataset.class_names == ["cat", "dog"]
    assert (dataset[2]["label"], dataset[2]["captions"]) == (1, ("c",))


def test_integers_and_class_names_will_do():
    dataset = ImageDataset(table(kind=[0, 1, 1, 0]), label_column="kind", class_names=["polar_bear", "sea lion"])
    assert dataset.class_names == ["polar bear", "sea lion"]
    assert [dataset[row]["label"] for row in range(4)] == [0, 1, 1, 0]


def test_a_struct_called_image_will_do():
    """Parquet written by other tools than `datasets` says nothing of images."""
    rows = datasets.Dataset.from_dict({"image": IMAGES, "label": [0, 1, 1, 0]})
    assert ImageDataset(rows, class_names=["cat", "dog"])[0]["image"]["bytes"] == IMAGES[0]["bytes"]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (table(label=[0] * 4).select([]), {}, "things: the split 'train' is empty"),
        (table(kind=[0, 1, 2, 3]), {}, r"expected one ClassLabel column, found none among \['image', 'kind'\]"),
        (table(label_1=[0] * 4, label_2=[0] * 4), {}, "expected one ClassLabel column, found .*label_1.*label_2"),
        (table(label=[0] * 4).remove_columns("image"), {}, "expected one Image column, found none"),
        (table(kind=[0, 1, 2, 3]), {"label_column": "kind"}, "column 'kind' carries no class names; put a classnames"),
        (
            table(kind=[0, 1, 2, 3]),
            {"label_column": "kind", "class_names": ["a", "b", "c"]},
            r"things/train row 3: label 3 lies outside the 3 class names \(0 to 2\); 1 such rows",
        ),
        (table(kind=[0, -1, -1, 0]), {"label_column": "kind", "class_names": ["a"]}, "row 1: label -1 .* 2 such rows"),
        (table(label=[0, 1, 0, None]), {}, "labels in column 'label' must all be integers"),
        (table(kind=[*"abab"]), {"label_column": "kind", "class_names": ["a", "b"]}, "must all be integers"),
        (
            table(label=[0] * 4),
            {"label_column": "kind"},
            r"has no column 'kind'; its columns are \['image', 'label'\]",
        ),
        (table(label=[0] * 4), {"image_column": "photo"}, r"has no column 'photo'; its columns are"),
        (table(label=[0] * 4), {"class_names": ["cat", 7]}, "class names must be non-empty strings, got 7; quote it"),
        (table(label=[0] * 4), {"class_names": ["cat", ""]}, "class names must be non-empty strings, got ''"),
        (table(label=[0] * 4), {"templates": ["a photo"]}, "a template needs a {} where .* got 'a photo'"),
        (table(label=[0] * 4), {"templates": ["a {}", 3]}, "a template needs a {} where .* got 3"),
    ],
)
def test_mistakes_are_named(rows, settings, message):
    with pytest.raises(ValueError, match=message):
        ImageDataset(rows, name="things", **settings)


def test_some_classes_can_be_kept_in_a_new_order(coloured):
    kept = coloured.with_templates(["one {}"]).called("part").keep_classes(["blue", "red"])
    assert (kept.name, kept.source) == ("part", coloured.source)
    assert kept.class_names == ["blue", "red"]
    assert len(kept) == 16
    assert kept.templates == ("one {}",)
    originals = [example for example in map(coloured.__getitem__, range(24)) if example["label"] != 1]
    for row, original in enumerate(originals):
        assert kept[row]["image"] == original["image"]
        assert kept[row]["label"] == {2: 0, 0: 1}[original["label"]]
        assert kept[row]["index"] == row


def test_keeping_classes_is_not_confused_by_other_columns():
    """As in CIFAR-100, with its coarse labels, or with captions and thumbnails beside the classes."""
    rows = table(label=[0, 1, 1, 0], label_coarse=[0, 0, 1, 1], text=["a", "b", "c", "d"])
    rows = rows.add_column("thumbnail", IMAGES[::-1], feature=datasets.Image())
    dataset = ImageDataset(rows, image_column="image", label_column="label_coarse")
    kept = dataset.keep_classes(["dog"])
    assert [kept[row]["captions"] for row in range(2)] == [("c",), ("d",)]
    assert kept[0]["image"]["bytes"] == IMAGES[2]["bytes"]
    assert kept.class_names == ["dog"]


def test_classes_that_are_not_there_cannot_be_kept(coloured):
    with pytest.raises(ValueError, match=r"coloured has no class 'pink'; its classes are \['red', 'green', 'blue'\]"):
        coloured.keep_classes(["red", "pink"])
    with pytest.raises(ValueError, match="has captions, not classes"):
        ImageDataset(table(text=["a", "b", "c", "d"])).keep_classes(["red"])


def test_other_templates_leave_all_else_alone(coloured):
    other = coloured.with_templates(["a {}.", "one {}"])
    assert other[1]["captions"] == ("a green.", "one green")
    assert coloured[1]["captions"] == ("This is a photo of a green",)
    assert other[1]["image"] == coloured[1]["image"]
    assert other.revision == coloured.revision
    with pytest.raises(ValueError, match="a template needs a {}"):
        coloured.with_templates(["a photo"])


def test_the_epoch_reaches_the_examples(coloured):
    assert coloured[0]["epoch"] == 0
    coloured.set_epoch(3)
    assert coloured[0]["epoch"] == 3


@pytest.mark.parametrize(("name", "may_flip"), [("cifar10", True), ("mnist", False), ("gtsrb", False)])
def test_digits_and_signs_are_never_mirrored(name, may_flip):
    assert ImageDataset(coloured_rows(3), name=name)[0]["may_flip"] is may_flip


class TestRevision:
    """What identifies a split is what is in it."""

    def test_is_the_same_wherever_the_rows_lie(self, coloured, tmp_path):
        coloured_rows(24).to_parquet(tmp_path / "elsewhere.parquet")
        rows = datasets.Dataset.from_parquet(str(tmp_path / "elsewhere.parquet"))
        assert ImageDataset(rows, name="other", split="train").revision == coloured.revision
        assert coloured.revision.startswith("sha256:")

    def test_is_that_of_the_files_for_images_on_disk(self, coloured, tmp_path):
        cells = []
        for row in range(24):
            path = tmp_path / f"{row}.png"
            path.write_bytes(coloured[row]["image"]["bytes"])
            cells.append({"bytes": None, "path": str(path)})
        rows = datasets.Dataset.from_dict({"image": cells, "label": np.arange(24) % 3})
        on_disk = ImageDataset(rows, class_names=coloured.class_names)
        assert on_disk.revision == coloured.revision
        (tmp_path / "3.png").unlink()
        assert ImageDataset(rows, class_names=coloured.class_names).revision != coloured.revision

    def test_changes_with_any_image_label_or_the_order(self, coloured):
        rows = coloured_rows(24)
        other_label = copy.copy(coloured)
        other_label.__dict__.pop("revision", None)
        other_label.labels = np.where(np.arange(24) == 7, 0, coloured.labels)
        seen = {
            coloured.revision,
            other_label.revision,
            ImageDataset(coloured_rows(24, seed=1)).revision,
            ImageDataset(rows.select(range(23))).revision,
            ImageDataset(rows.select([*range(22), 23, 22])).revision,
            coloured.keep_classes(["red", "green", "blue"][::-1]).revision,
        }
        assert len(seen) == 6
