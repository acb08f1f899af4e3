"""Names in label order, whatever the source calls its classes."""

import datasets
import pytest

from robust_clip.data import ImageDataset, load_image_dataset
from robust_clip.data.class_names import ASSETS, ClassNames, is_wordnet_id, split_lines
from tests.conftest import coloured_rows
from tests.data.conftest import picture


def nothing(repository):
    raise AssertionError(f"{repository} is not asked for")


def test_a_blank_line_is_a_name_that_is_missing():
    """Dropped, it would give every later class the name of the next."""
    assert split_lines("cat\n\n dog \n\n") == ["cat", "", "dog"]
    with pytest.raises(ValueError, match="class names must be non-empty strings, got ''"):
        ImageDataset(coloured_rows(3), class_names=split_lines("cat\n\ndog\n"))


def test_names_are_counted():
    names = ClassNames(3)
    assert names.resolve(["a", "b", "c"], None, None, nothing) == ["a", "b", "c"]
    assert names.resolve(None, None, None, nothing) is None
    with pytest.raises(ValueError, match="there are 2 class names where there must be 3"):
        names.resolve(["a", "b"], None, None, nothing)


def test_a_line_missing_from_a_repositorys_class_names_is_noticed(tmp_path):
    """Even where no image in the split has the last label."""
    folder = tmp_path / "ethz" / "food101"
    folder.mkdir(parents=True)
    rows = coloured_rows(6).cast_column("label", datasets.ClassLabel(names=[f"dish {label}" for label in range(101)]))
    rows.to_parquet(folder / "validation.parquet")
    assert len(load_image_dataset("food101", root=str(tmp_path)).class_names) == 101
    (folder / "classnames.txt").write_text("".join(f"dish {label}\n" for label in range(100)))
    with pytest.raises(ValueError, match="food101: there are 100 class names where there must be 101"):
        load_image_dataset("food101", root=str(tmp_path))


@pytest.mark.parametrize(
    ("labels", "names"),
    [([0, 1, 0], ["a", "b", "c"]), ([0, 2, 2], ["a", "b", "b"]), ([1, 2, 2], ["a", "b", "b"])],
    ids=["two names for a label", "no name for label 1", "no name for label 0"],
)
def test_names_in_a_column_must_fit_the_labels(labels, names):
    rows = datasets.Dataset.from_dict({"label": labels, "text": names})
    with pytest.raises(ValueError, match="each label from 0 up must come with one name"):
        ClassNames(column="text").resolve(None, rows, "label", nothing)


def test_names_of_another_repository_need_labels_in_the_same_order():
    names = ClassNames(repository="a/b")
    assert names.resolve(["n00000001", "n00000002"], None, None, lambda _: ["cat", "dog"]) == ["cat", "dog"]
    with pytest.raises(ValueError, match="in the order of their WordNet ids"):
        names.resolve(["n00000002", "n00000001"], None, None, lambda _: ["cat", "dog"])


def test_tiny_imagenets_names_are_in_the_order_of_its_ids():
    lines = [line.split(" ", maxsplit=1) for line in (ASSETS / "tiny_imagenet_names.txt").read_text().splitlines()]
    identifiers, names = zip(*lines, strict=True)
    assert len(lines) == len(set(identifiers)) == len(set(names)) == 200
    assert all(map(is_wordnet_id, identifiers))
    assert list(identifiers) == sorted(identifiers)
    assert not any(map(is_wordnet_id, names))


def test_an_unknown_wordnet_id_is_refused():
    names = ClassNames(wordnet="tiny_imagenet_names.txt")
    assert names.resolve(["n12267677", "n01443537"], None, None, nothing) == ["acorn", "goldfish"]
    assert names.resolve(["acorn"], None, None, nothing) == ["acorn"]
    with pytest.raises(ValueError, match="class 'n00000001' is none of the 200 WordNet ids"):
        names.resolve(["n12267677", "n00000001"], None, None, nothing)


def image_folders(root, names):
    for seed, name in enumerate(names):
        (root / name).mkdir(parents=True)
        picture(seed=seed).save(root / name / "1.png")
    return root


def test_wordnet_ids_never_stand_in_a_prompt(tmp_path):
    image_folders(tmp_path / "photos", ["n01443537", "n12267677"])
    with pytest.raises(ValueError, match="photos: the class name 'n01443537' is a WordNet id.*classnames.txt"):
        load_image_dataset("photos", root=str(tmp_path))
    assert load_image_dataset("photos", root=str(tmp_path), class_names=["a", "b"]).class_names == ["a", "b"]
    (tmp_path / "photos" / "classnames.txt").write_text("goldfish\nacorn\n")
    assert load_image_dataset("photos", root=str(tmp_path)).class_names == ["goldfish", "acorn"]


def test_image_folders_of_a_row_get_its_words(tmp_path):
    image_folders(tmp_path / "tiny_imagenet" / "test", ["n12267677", "n01443537"])
    dataset = load_image_dataset("tiny_imagenet", root=str(tmp_path))
    assert dataset.class_names == ["goldfish", "acorn"]


def test_imagenet_c_may_lie_in_the_folders_of_its_archives(tmp_path):
    image_folders(tmp_path / "imagenet_c" / "fog" / "3", ["n00000001", "n00000002"])
    names = tmp_path / "clip-benchmark" / "wds_imagenet1k" / "classnames.txt"
    names.parent.mkdir(parents=True)
    names.write_text("tench\ngoldfish\n")
    dataset = load_image_dataset("imagenet_c", "fog/3", root=str(tmp_path))
    assert (dataset.split, dataset.class_names) == ("fog/3", ["tench", "goldfish"])
    with pytest.raises(ValueError, match="has no split 'fog/4'"):
        load_image_dataset("imagenet_c", "fog/4", root=str(tmp_path))
