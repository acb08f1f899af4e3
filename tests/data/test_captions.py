"""Images with several captions each, and captions that are none."""

import datasets
import pytest

from robust_clip.data import ImageDataset, PixelCollator
from tests.data.conftest import encoded, picture

IMAGES = [encoded(picture(seed=seed)) for seed in range(3)]


def captioned(column, captions):
    features = {"image": datasets.Image()}
    kind = datasets.Value("string")
    features[column] = datasets.List(kind) if isinstance(captions[0], list) else kind
    return datasets.Dataset.from_dict({"image": IMAGES, column: captions}, datasets.Features(features))


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("captions", [["a", "b"], ["c"], ["d", "e", "f"]]),
        ("caption", [["a", "b"], ["c"], ["d", "e", "f"]]),
        ("txt", ["a\nb", "c\n", "d\r\n e\nf"]),
    ],
)
def test_an_image_may_have_several(column, cells):
    dataset = ImageDataset(captioned(column, cells))
    assert dataset.captions == (("a", "b"), ("c",), ("d", "e", "f"))
    assert dataset[2]["captions"] == ("d", "e", "f")
    assert (dataset.class_names, dataset.labels) == (None, None)


def test_a_caption_may_have_lines_except_in_txt():
    assert ImageDataset(captioned("text", ["a\nb", "c", "d"])).captions[0] == ("a\nb",)
    assert ImageDataset(captioned("txt", [r"a\nb", "c", "d"])).captions[0] == ("a b",)


def test_the_column_may_be_named():
    rows = captioned("sentence", ["a", "b", "c"])
    with pytest.raises(ValueError, match="expected one ClassLabel column"):
        ImageDataset(rows)
    assert ImageDataset(rows, text_column="sentence").captions[1] == ("b",)
    with pytest.raises(ValueError, match=r"has no column 'words'; its columns are \['image', 'sentence'\]"):
        ImageDataset(rows, text_column="words")


@pytest.mark.parametrize(
    ("column", "cells", "what"),
    [
        ("text", ["a", "", "c"], "the caption '' in column 'text'"),
        ("text", ["a", "  ", "c"], "the caption '  ' in column 'text'"),
        ("text", ["a", None, "c"], "there is no caption in column 'text'"),
        ("txt", ["a", "b\n\nc", "c"], "the caption '' in column 'txt'"),
        ("txt", ["a", "", "c"], "there is no caption in column 'txt'"),
        ("captions", [["a"], [], ["c"]], "there is no caption in column 'captions'"),
        ("captions", [["a"], ["b", ""], ["c"]], "the caption '' in column 'captions'"),
        ("captions", [["a"], ["b", None], ["c"]], "the caption None in column 'captions'"),
    ],
)
def test_empty_captions_are_refused_with_their_row(column, cells, what):
    with pytest.raises(ValueError, match=f"^birds/test row 1: {what}"):
        ImageDataset(captioned(column, cells), name="birds", split="test")


def test_training_sees_one_of_them_each_time():
    dataset = ImageDataset(captioned("captions", [["a", "b"], ["c", "d"], ["e", "f"]]))
    seen = set()
    for epoch in range(12):
        dataset.set_epoch(epoch)
        seen.add(tuple(PixelCollator(16)([dataset[row] for row in range(3)])["texts"]))
    assert seen == {("a", "c", "e"), ("b", "d", "f")}


def test_keeping_classes_keeps_their_captions():
    rows = captioned("words", [["a", "b"], ["c"], ["d"]])
    rows = rows.add_column("label", [0, 1, 0], feature=datasets.ClassLabel(names=["cat", "dog"]))
    kept = ImageDataset(rows, text_column="words").keep_classes(["cat"])
    assert kept.captions == (("a", "b"), ("d",))
