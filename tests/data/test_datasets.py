"""Every row of the table against a folder laid out as its repository is; the suites name rows."""

import json

import pytest

from robust_clip.cli import main
from robust_clip.data import DATASETS, SUITES, PixelCollator, load_image_dataset
from robust_clip.data.datasets import CORRUPTIONS
from tests.data.mirror import CAPTIONS, build, labels_of

ON_HUB = [name for name, row in DATASETS.items() if row.hub_id]
RETRIEVAL = ["coco", "flickr30k", "flickr8k"]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    """A folder that stands in for the Hub."""
    root = tmp_path_factory.mktemp("hub")
    for name in ON_HUB:
        build(name, root)
    return str(root)


def split_of(name):
    return "fog/5" if name == "imagenet_c" else "test"


@pytest.mark.parametrize("name", [name for name in ON_HUB if name not in (*RETRIEVAL, "caltech256")])
def test_a_row_reads_the_test_split_of_its_repository(mirror, name):
    dataset = load_image_dataset(name, split_of(name), root=mirror)
    count = DATASETS[name].names.count
    assert (dataset.name, dataset.split, len(dataset)) == (name, split_of(name), 3)
    assert list(dataset.labels) == labels_of(count, "test")
    assert len(dataset.class_names) == count
    assert dataset.captions is None
    pixels = PixelCollator(16)([dataset[row] for row in range(3)])["pixels"]
    assert pixels.shape == (3, 3, 16, 16)


@pytest.mark.parametrize("name", RETRIEVAL)
def test_a_captioned_row_has_several_captions_an_image(mirror, name):
    dataset = load_image_dataset(name, root=mirror)
    assert dataset.class_names is None
    assert dataset.captions == (tuple(CAPTIONS),) * 3
    assert (dataset[1]["label"], dataset[1]["captions"]) == (-1, tuple(CAPTIONS))
    assert dataset[1]["image"]["bytes"][:2] == b"\xff\xd8"


@pytest.mark.parametrize("name", [name for name in ON_HUB if name not in ("caltech256", "imagenet_c")])
def test_a_row_can_be_loaded_in_part(mirror, name):
    part, whole = (load_image_dataset(name, root=mirror, first=first) for first in (2, None))
    assert (part.split, len(part)) == ("test[:2]", 2)
    assert part.class_names == whole.class_names
    for row in range(2):
        assert part[row]["image"]["bytes"] == whole[row]["image"]["bytes"]
        assert (part[row]["label"], part[row].get("captions")) == (whole[row]["label"], whole[row].get("captions"))


@pytest.mark.parametrize("name", ["cifar100", "food101", "eurosat", "tiny_imagenet"])
def test_other_splits_go_by_their_own_names(mirror, name):
    dataset = load_image_dataset(name, "train", root=mirror)
    assert list(dataset.labels) == labels_of(DATASETS[name].names.count, "train")
    source = DATASETS[name].test
    with pytest.raises(ValueError, match=rf"has no split 'dev'; it has (train, {source}|{source}, train)"):
        load_image_dataset(name, "dev", root=mirror)


def test_caltech256_is_all_its_parts_and_names_are_read_off_a_column(mirror):
    dataset = load_image_dataset("caltech256", root=mirror)
    assert len(dataset) == 257 + 3 + 3
    assert dataset.class_names[:2] == ["some thing a0", "some thing b1"]
    assert dataset.captions is None
    assert dataset[0]["captions"] == ("A photo of a some thing a0.",)
    with pytest.raises(ValueError, match="caltech256: .* cannot be loaded in part"):
        load_image_dataset("caltech256", root=mirror, first=2)
    with pytest.raises(ValueError, match="each label from 0 up must come with one name"):
        load_image_dataset("caltech256", "validation", root=mirror)
    assert len(load_image_dataset("caltech256", "validation", root=mirror, class_names=["a"] * 257)) == 3


def test_tiny_imagenet_has_words_for_its_wordnet_ids(mirror):
    names = load_image_dataset("tiny_imagenet", root=mirror).class_names
    assert [names[0], names[31], names[199]] == ["goldfish", "persian cat", "acorn"]
    assert len(set(names)) == 200


def test_imagenet_c_is_named_as_imagenet_is(mirror):
    assert load_image_dataset("imagenet_c", "fog/5", root=mirror).class_names[41] == "Thing-41 x"
    for split in ("test", "fog", "fog/6", "rain/1"):
        with pytest.raises(ValueError, match="a corruption and a severity from 1 to 5") as error:
            load_image_dataset("imagenet_c", split, root=mirror)
        assert all(corruption in str(error.value) for corruption in CORRUPTIONS)
    with pytest.raises(ValueError, match="ImageNet-C-snow-severity_1' cannot be reached on the Hub"):
        load_image_dataset("imagenet_c", "snow/1", root=mirror)


def test_names_for_prompts_are_left_alone_and_others_cleaned(mirror):
    """CLIP_benchmark's are written for prompts; `ClassLabel` names are identifiers."""
    assert load_image_dataset("dtd", root=mirror).class_names[0] == "Thing-0 x"
    assert load_image_dataset("food101", root=mirror).class_names[0] == "thing 0 x"


def test_pcam_may_have_the_papers_sentences(mirror):
    dataset = load_image_dataset("pcam_sentences", root=mirror)
    assert dataset[0]["captions"] == ("This is a photo of lymph node tumor tissue.",)
    assert load_image_dataset("pcam", root=mirror)[0]["captions"] == ("this is a photo of Thing-1 x",)


def test_a_suite_is_measured_whole(mirror, tiny_checkpoint, capsys):
    where = ["--model", str(tiny_checkpoint), "--suite", "zero_shot_16", "--root", mirror]
    assert main(["evaluate", *where, "--protocol", "clean", "--samples", "3", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["dataset"]["name"], row["n"]) for row in rows] == [(name, 3) for name in SUITES["zero_shot_16"]]


def test_suites_name_rows_with_classes():
    assert {name: len(rows) for name, rows in SUITES.items()} == {
        "zero_shot_13_fare": 13,
        "zero_shot_15": 15,
        "zero_shot_16": 16,
    }
    for rows in SUITES.values():
        assert len(set(rows)) == len(rows)
        assert all(DATASETS[name].names.count for name in rows)


def test_a_set_that_comes_with_a_package_is_nowhere_on_the_hub():
    with pytest.raises(ValueError, match="comes with an installed package"):
        DATASETS["digits"].locate("test")
