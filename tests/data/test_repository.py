"""Shards in their order, splits that are not there, and what the Hub is asked for; nothing here touches a network."""

from pathlib import Path

import datasets
import pytest
from huggingface_hub.errors import EntryNotFoundError

from robust_clip.data import load_image_dataset, repository
from robust_clip.data.repository import Repository
from tests.data.mirror import image_bytes, parquet, shard, shards


def numbered_shards(folder, n):
    """`n` shards of one image each, whose label is the shard's number."""
    for number in range(n):
        shard(folder / "test" / f"{number}.tar", [{"webp": image_bytes("webp", number), "cls": b"%d" % number}])
    (folder / "test" / "nshards.txt").write_text(f"{n}\n")
    (folder / "classnames.txt").write_text("".join(f"thing {number}\n" for number in range(n)))
    return folder


@pytest.mark.parametrize("first", [None, 11])
def test_shard_2_comes_before_shard_10(tmp_path, first):
    """The first thousand images that a paper measured on are those of CLIP_benchmark's order."""
    rows = Repository("a/wds_b", numbered_shards(tmp_path, 12)).load_shards("test", first)
    assert rows["cls"][:] == list(range(first or 12))


def test_shards_in_a_folder_of_ones_own(tmp_path):
    numbered_shards(tmp_path / "mine", 12)
    dataset = load_image_dataset("mine", root=str(tmp_path))
    assert (dataset.name, list(dataset.labels), dataset.class_names[11]) == ("mine", list(range(12)), "thing 11")
    with pytest.raises(ValueError, match="has no split 'train'; it has test"):
        load_image_dataset("mine", "train", root=str(tmp_path))


def test_only_the_split_that_is_wanted_is_read(tmp_path):
    shards(tmp_path, "webp", 2)
    (tmp_path / "train" / "0.tar").write_text("not a tar file")
    assert len(Repository("a/wds_b", tmp_path).load_shards("test")) == 3
    with pytest.raises(ValueError, match=f"{tmp_path} cannot be read"):
        Repository("a/wds_b", tmp_path).load_shards("train")


def test_missing_shards_and_splits_are_refused(tmp_path):
    folder = numbered_shards(tmp_path, 3)
    (folder / "test" / "1.tar").unlink()
    with pytest.raises(ValueError, match=r"holds 2 shards where its nshards.txt says 3; complete the download"):
        Repository("a/wds_b", folder).load_shards("test")
    with pytest.raises(ValueError, match="has no split 'valid'; it has test"):
        Repository("a/wds_b", folder).load_shards("valid")


@pytest.mark.parametrize("first", [None, 2])
def test_a_shard_without_examples_is_refused(tmp_path, first):
    shard(tmp_path / "test" / "0.tar", [])
    with pytest.raises(ValueError, match=f"{tmp_path} cannot be read"):
        Repository("a/wds_b", tmp_path).load_shards("test", first)


def test_a_folder_without_data_stands_in_for_nothing(tmp_path):
    (tmp_path / "ethz" / "food101").mkdir(parents=True)
    with pytest.raises(ValueError, match="stands in for ethz/food101 and cannot be read"):
        load_image_dataset("food101", root=str(tmp_path))


def test_parquet_splits_can_be_joined(tmp_path):
    files = {split: f"data/{split}-00000-of-00001.parquet" for split in ("train", "test")}
    parquet(tmp_path, files, ["cat", "dog"])
    assert len(Repository("a/b", tmp_path).load("train+test")) == 6
    with pytest.raises(ValueError, match=r"has no split 'train\+val'; it has test, train|it has train, test"):
        Repository("a/b", tmp_path).load("train+val")
    with pytest.raises(ValueError, match="has no split 'val'"):
        Repository("a/b", tmp_path).load("val", first=1)


def test_a_damaged_parquet_file_is_refused(tmp_path):
    file = "data/test-00000-of-00001.parquet"
    parquet(tmp_path, {"test": file}, ["cat", "dog"])
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-8])
    with pytest.raises(ValueError, match=f"{tmp_path} .*Parquet magic bytes not found"):
        Repository("a/b", tmp_path).load("test")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub with the repository `a/wds_b`, and the list of what was asked of it."""
    folder, asked = numbered_shards(tmp_path / "snapshot", 12), []

    def download(hub_id, path, repo_type):
        asked.append((hub_id, path, repo_type))
        if not (folder / path).is_file():
            raise EntryNotFoundError(path)
        return str(folder / path)

    def snapshot(hub_id, repo_type, allow_patterns):
        asked.append((hub_id, tuple(allow_patterns), repo_type))
        return str(folder)

    listing = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    monkeypatch.setattr(repository, "hf_hub_download", download)
    monkeypatch.setattr(repository, "snapshot_download", snapshot)
    monkeypatch.setattr(repository.HfApi, "list_repo_files", lambda self, hub_id, repo_type: listing)
    return asked


def test_of_the_hub_only_one_split_is_downloaded(hub):
    dataset = load_image_dataset("a/wds_b")
    assert (dataset.name, len(dataset), dataset.class_names[11]) == ("a/wds_b", 12, "thing 11")
    assert hub == [("a/wds_b", ("test/*", "*.txt"), "dataset"), ("a/wds_b", "classnames.txt", "dataset")]
    with pytest.raises(ValueError, match="a/wds_b has no split 'train'; it has test"):
        load_image_dataset("a/wds_b", "train")


def test_the_first_images_are_streamed(hub, monkeypatch):
    streamed = []

    def load_dataset(kind, data_files, split, streaming):
        streamed.append((kind, data_files["train"], streaming))
        images = [{"bytes": image_bytes("webp", row), "path": None} for row in range(5)]
        rows = {"webp": images, "cls": list(range(5))}
        features = datasets.Features({"webp": datasets.Image(), "cls": datasets.Value("int64")})
        return datasets.Dataset.from_dict(rows, features).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    dataset = load_image_dataset("a/wds_b", first=4)
    assert (dataset.split, list(dataset.labels)) == ("test[:4]", [0, 1, 2, 3])
    addresses = [f"hf://datasets/a/wds_b/test/{number}.tar" for number in range(12)]
    assert streamed == [("webdataset", addresses, True)]
    assert hub[0] == ("a/wds_b", "test/nshards.txt", "dataset")
    with pytest.raises(ValueError, match="a/wds_b has no split 'train'; it has test"):
        load_image_dataset("a/wds_b", "train", first=4)


@pytest.mark.parametrize("first", [None, 3])
def test_a_repository_that_cannot_be_reached_is_named(first):
    with pytest.raises(ValueError, match="'clip-benchmark/wds_vtab-dtd' cannot be reached on the Hub"):
        load_image_dataset("dtd", first=first)


def test_class_names_of_another_repository_must_be_reached(tmp_path):
    folder = tmp_path / "Tsomaros" / "ImageNet-C-fog-severity_1"
    names = [f"n{label:08d}" for label in range(1000)]
    parquet(folder, {"validation": "data/validation-00000-of-00001.parquet"}, names)
    with pytest.raises(ValueError, match="'clip-benchmark/wds_imagenet1k' cannot be reached on the Hub"):
        load_image_dataset("imagenet_c", "fog/1", root=str(tmp_path))
    other = tmp_path / "clip-benchmark" / "wds_imagenet1k"
    other.mkdir(parents=True)
    with pytest.raises(ValueError, match="wds_imagenet1k, which has no classnames.txt"):
        load_image_dataset("imagenet_c", "fog/1", root=str(tmp_path))
    Path(other / "classnames.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match="belong to 2 labels .* the source has 1000 labels"):
        load_image_dataset("imagenet_c", "fog/1", root=str(tmp_path))
