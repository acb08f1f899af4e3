"""Examples beside a row: what is read, what is refused, and the picture of a perturbation."""

import base64
import io
import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from robust_clip.evaluation.examples import ImageExample, TextExample, names_of, picture, read_examples, word_changes

IMAGE = ImageExample(7, 3, 3, 5, "1-pgd-cross_entropy", "7-clean.png", "7-adversarial.png", adversarial_name="dog")
TEXT = TextExample("a photo of a dog", "a photo of a doge")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "examples").mkdir()
    clean = np.random.default_rng(0).integers(20, 200, (5, 4, 3), dtype=np.uint8)
    change = np.random.default_rng(1).integers(-4, 5, clean.shape)
    change[0, 0] = (4, -4, 0)
    Image.fromarray(clean).save(tmp_path / "examples" / IMAGE.clean)
    Image.fromarray((clean + change).astype(np.uint8)).save(tmp_path / "examples" / IMAGE.adversarial)
    write(tmp_path, [asdict(IMAGE), asdict(TEXT)])
    return tmp_path


def write(folder, entries):
    (folder / "examples" / "examples.json").write_text(json.dumps(entries))


def array_of(uri):
    head, data = uri.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)


def test_examples_are_read(folder, tmp_path_factory):
    assert read_examples(folder) == [IMAGE, TEXT]
    assert read_examples(tmp_path_factory.mktemp("none")) == []


def test_names_stand_in_for_numbers_where_they_are_known():
    assert names_of(IMAGE) == ["class 3", "class 3", "dog"]


def test_the_perturbation_is_magnified_around_grey(folder):
    shown = picture(folder, IMAGE)
    clean, perturbation, adversarial = map(array_of, (shown.clean, shown.perturbation, shown.adversarial))
    assert (shown.factor, shown.width) == (127 / 4, 4)
    assert perturbation[0, 0].tolist() == [255, 1, 128]
    assert np.abs(perturbation - 128 - 31.75 * (adversarial - clean)).max() <= 0.5


def test_no_perturbation_is_grey(folder):
    shown = picture(folder, ImageExample(**asdict(IMAGE) | {"adversarial": IMAGE.clean}))
    assert shown.factor == 0
    assert (array_of(shown.perturbation) == 128).all()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([], "where an object is expected"),
        ({"text": "a"}, "attacked_text"),
        (asdict(TEXT) | {"more": 1}, "the fields are text, attacked_text"),
        (asdict(TEXT) | {"text": 1}, "text must be str, got 1"),
        (asdict(IMAGE) | {"label": "three"}, "label must be int, got 'three'"),
        (asdict(IMAGE) | {"label_name": 3}, "label_name must be str | None, got 3"),
        (asdict(IMAGE) | {"clean": "../../secret.png"}, "name of a PNG in the same folder, got '../../secret.png'"),
        (asdict(IMAGE) | {"adversarial": "photo.svg"}, "name of a PNG in the same folder"),
    ],
)
def test_what_is_no_example_is_refused(folder, entry, message):
    write(folder, [asdict(TEXT), entry])
    with pytest.raises(ValueError, match="entry 1 of .*examples.json") as error:
        read_examples(folder)
    assert message in str(error.value)


@pytest.mark.parametrize(("content", "message"), [("{", "is not JSON"), ("{}", "holds dict, where a list")])
def test_what_is_no_list_is_refused(folder, content, message):
    (folder / "examples" / "examples.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_examples(folder)


def test_pictures_that_cannot_be_shown_are_refused(folder):
    Image.new("RGB", (9, 5)).save(folder / "examples" / IMAGE.adversarial)
    with pytest.raises(ValueError, match="must have one size, got 4x5 and 9x5"):
        picture(folder, IMAGE)
    (folder / "examples" / IMAGE.clean).write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"7-clean\.png is not a PNG that can be read"):
        picture(folder, IMAGE)


def test_changed_words_are_found():
    assert word_changes("a photo of a dog", "one photo of the cat") == [
        ("one", True),
        ("photo of", False),
        ("the cat", True),
    ]
    assert word_changes("a dog", "a dog") == [("a dog", False)]
