"""Finding a data set by row name, Hub id, parquet file or folder; nothing here touches a network."""

import time

import datasets
import pytest

from robust_clip.data import DATASETS, DataSource, load_image_dataset
from robust_clip.data.loading import load_row
from robust_clip.data.repository import Repository
from tests.conftest import coloured_rows
from tests.data.conftest import picture


def image_folder(root, layout):
    """Writes one image for each path in `layout`."""
    for seed, path in enumerate(layout):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        picture(seed=seed).save(root / path)
    return root


def test_a_folder_of_parquet_files_has_splits(coloured_folder):
    train, test = (load_image_dataset(str(coloured_folder), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (48, 24)
    assert (test.name, test.split) == (coloured_folder.name, "test")
    assert test.class_names == ["red", "green", "blue"]
    with pytest.raises(ValueError, match="has no split 'validation'; it has test, train"):
        load_image_dataset(str(coloured_folder), "validation")


def test_a_parquet_file_is_taken_as_it_is(tmp_path):
    coloured_rows(6).to_parquet(tmp_path / "photos.parquet")
    dataset = load_image_dataset(str(tmp_path / "photos.parquet"))
    assert (dataset.name, len(dataset)) == ("photos", 6)


def test_a_parquet_file_that_was_replaced_is_read_anew(tmp_path):
    file = tmp_path / "photos.parquet"
    for n in (6, 9):
        coloured_rows(n).to_parquet(file)
        assert len(load_image_dataset(str(file))) == n


def test_root_is_looked_into_before_the_hub(tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    coloured_rows(6).to_parquet(tmp_path / "mnist" / "test.parquet")
    dataset = load_image_dataset("mnist", root=str(tmp_path))
    assert (dataset.name, len(dataset)) == ("mnist", 6)
    assert dataset.templates == ('a photo of the number: "{}".',)
    monkeypatch.chdir(tmp_path / "mnist")
    assert load_image_dataset(".").name == "mnist"
    nowhere = str(tmp_path / "nowhere")
    assert len(load_image_dataset(str(tmp_path / "mnist"), root=nowhere)) == 6  # a whole path needs no root


@pytest.mark.parametrize("name", ["mnist", "digits", "owner/name"])
@pytest.mark.parametrize("load", [load_image_dataset, load_row, lambda name, root: DataSource(name, root=root).load()])
def test_a_root_that_is_no_folder_is_refused_before_anything_is_asked_of_the_hub(load, name, tmp_path, monkeypatch):
    monkeypatch.setattr(Repository, "load", lambda *_: pytest.fail("the Hub was asked"))
    with pytest.raises(ValueError, match="nothere' is not there; give one as root, or leave it out for the Hub"):
        load(name, root=str(tmp_path / "nothere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file' is a file"):
        load(name, root=str(tmp_path / "file"))


def test_what_a_root_does_not_hold_comes_from_the_hub_and_the_log_says_so_once(tmp_path, monkeypatch, caplog):
    def load(repository, split, first):
        assert repository.folder is None
        return coloured_rows(6)

    monkeypatch.setattr(Repository, "load", load)
    monkeypatch.setattr(Repository, "class_names", lambda *_: None)
    for _ in range(2):
        load_image_dataset("ylecun/mnist", root=str(tmp_path), class_names=list("0123456789"))
        load_image_dataset("owner/name", root=str(tmp_path))
    mnist, other = caplog.messages
    assert mnist.endswith(f"{tmp_path} holds no mnist or ylecun/mnist: ylecun/mnist is read from the Hub.")
    assert f"{tmp_path} holds no owner/name: " in other
    load_image_dataset("owner/name")
    load_image_dataset("digits", root=str(tmp_path))
    assert len(caplog.messages) == 2


def test_a_misspelt_name_is_answered_with_near_ones_and_with_what_the_root_holds(tmp_path):
    for folder in ("my_photos", "ylecun/mnist", ".cache"):
        (tmp_path / folder).mkdir(parents=True)
    coloured_rows(6).to_parquet(tmp_path / "holidays.parquet")
    (tmp_path / "README.md").write_text("")
    with pytest.raises(ValueError, match=r"'cifar11'. Did you mean cifar10 or cifar100\? Give .* one of caltech101, "):
        load_image_dataset("cifar11")
    with pytest.raises(ValueError, match="holds holidays.parquet, my_photos, ylecun/mnist. Give a path") as error:
        load_image_dataset("my_photo", root=str(tmp_path))
    assert "Did you mean my_photos?" in str(error.value)


def test_class_names_come_from_the_caller_else_from_a_file_else_from_the_labels(tmp_path):
    coloured_rows(6).to_parquet(tmp_path / "test.parquet")
    assert load_image_dataset(str(tmp_path)).class_names == ["red", "green", "blue"]
    (tmp_path / "classnames.txt").write_text("rouge\nvert\nbleu\n")
    assert load_image_dataset(str(tmp_path)).class_names == ["rouge", "vert", "bleu"]
    assert load_image_dataset(str(tmp_path / "test.parquet")).class_names == ["rouge", "vert", "bleu"]
    assert load_image_dataset(str(tmp_path), class_names=["r", "g", "b"]).class_names == ["r", "g", "b"]
    (tmp_path / "classnames.txt").write_text("rouge\nvert\n")
    with pytest.raises(ValueError, match="row 2: label 2 lies outside the 2 class names"):
        load_image_dataset(str(tmp_path))


def test_a_data_set_can_be_loaded_in_part(coloured_folder):
    part, whole = (load_image_dataset(str(coloured_folder), first=first) for first in (7, None))
    assert (part.split, len(part), list(part.labels)) == ("test[:7]", 7, list(whole.labels[:7]))
    assert part[6]["image"] == whole[6]["image"]
    assert load_image_dataset(str(coloured_folder), first=25).split == "test"
    for first in (0, -1):
        with pytest.raises(ValueError, match=f"first must be at least 1, or None for the whole split, got {first}"):
            load_image_dataset(str(coloured_folder), first=first)


def test_templates_come_from_the_caller_else_from_the_papers(coloured_folder):
    assert load_image_dataset(str(coloured_folder)).templates == ("This is a photo of a {}",)
    assert load_image_dataset(str(coloured_folder), templates=["a {}"]).templates == ("a {}",)


def test_a_folder_of_image_folders_has_a_class_for_each(tmp_path):
    """Names that look like splits, a class that is called `train`, and other files change nothing."""
    layout = ["cat/1.png", "cat/my_test_2.png", "cat/train-3.jpg", "dog/1.png", "train/express.webp"]
    folder = image_folder(tmp_path / "my [best] photos", layout)
    (folder / "dog" / "notes.txt").write_text("good dog")
    dataset = load_image_dataset(str(folder))
    assert dataset.class_names == ["cat", "dog", "train"]
    assert [dataset[row]["label"] for row in range(len(dataset))] == [0, 0, 0, 1, 2]


def test_one_class_is_a_class(tmp_path):
    dataset = load_image_dataset(str(image_folder(tmp_path, ["cat/1.png", "cat/2.png"])))
    assert (dataset.class_names, len(dataset)) == (["cat"], 2)


def test_image_folders_may_have_splits(tmp_path):
    """A split that is not there is never replaced by another: that would test on training images."""
    image_folder(tmp_path, ["train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/dog/4.png", "val/dog/5.png"])
    assert len(load_image_dataset(str(tmp_path), "val")) == 3
    assert load_image_dataset(str(tmp_path), "train").class_names == ["cat", "dog"]
    with pytest.raises(ValueError, match="has no split 'test'; it has train, val"):
        load_image_dataset(str(tmp_path), "test")


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds neither test\.parquet nor one folder of images per class"):
        load_image_dataset(str(tmp_path))


def test_class_folders_without_images_are_refused(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
    (tmp_path / "train" / "dog" / "notes.txt").write_text("good dog")
    with pytest.raises(ValueError, match=f"class folders in {tmp_path / 'train'} hold no images"):
        load_image_dataset(str(tmp_path), "train")


def test_a_file_that_is_not_parquet_is_refused(tmp_path):
    (tmp_path / "test.parquet").write_text("not parquet")
    with pytest.raises(ValueError, match=r"test\.parquet is not a readable parquet file"):
        load_image_dataset(str(tmp_path))


def test_an_empty_split_is_refused(tmp_path):
    coloured_rows(3).select([]).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(ValueError, match=r"test\.parquet is empty"):
        load_image_dataset(str(tmp_path))


@pytest.mark.parametrize("name", ["cifar-10", "./photos", "/no/such/folder", "a/b/c", "photos.parquet"])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"Give a path, a Hub id \(owner/name\), or one of") as error:
        load_image_dataset(name)
    assert repr(name) in str(error.value)
    assert all(known in str(error.value) for known in DATASETS)


@pytest.mark.parametrize("name", ["cifar10", "uoft-cs/cifar10", "nobody/has-this"])
def test_a_hub_id_that_cannot_be_reached_is_answered_at_once(name):
    start = time.monotonic()
    with pytest.raises(ValueError, match="cannot be reached on the Hub .* give the path of a local copy") as error:
        load_image_dataset(name)
    assert time.monotonic() - start < 5
    assert ("uoft-cs/cifar10" if "cifar10" in name else name) in str(error.value)


@pytest.fixture
def hub(monkeypatch):
    """A Hub that gives CIFAR-100's columns for anything, and the list of what it was asked for."""
    asked = []

    def load_dataset(repository, split):
        asked.append((repository, split))
        rows = coloured_rows(6).cast_column("label", datasets.ClassLabel(names=[f"thing_{n}" for n in range(100)]))
        rows = rows.rename_columns({"image": "img", "label": "fine_label"})
        coarse = datasets.ClassLabel(names=["warm", "cold"])
        return rows.add_column("coarse_label", [0, 1, 1, 0, 1, 1], feature=coarse)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize("name", ["cifar100", "uoft-cs/cifar100"])
def test_a_row_and_its_hub_id_are_the_same_data_set(hub, name):
    dataset = load_image_dataset(name)
    assert (dataset.name, dataset.class_names[:2]) == ("cifar100", ["thing 0", "thing 1"])
    assert hub == [("uoft-cs/cifar100", "test")]


def test_a_row_knows_what_its_source_calls_the_test_split(hub):
    for split in ("test", "train"):
        with pytest.raises(ValueError, match=r"tiny_imagenet has no column 'image'; its columns are \['img'"):
            load_image_dataset("tiny_imagenet", split)
    assert hub == [("zh-plus/tiny-imagenet", "valid"), ("zh-plus/tiny-imagenet", "train")]
