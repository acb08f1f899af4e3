"""What a run is on record for: images by where they were read from, steps, and the size of a batch."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import ModelCard

from robust_clip.data import DataSource, ImageDataset, Mixture, load_image_dataset
from robust_clip.training.data_record import data_record, hub_id_of
from tests.conftest import coloured_rows


def below(folder: Path, n: int = 12) -> datasets.Dataset:
    """Rows in a file of Arrow, as `datasets` keeps them."""
    folder.mkdir(parents=True)
    coloured_rows(n).save_to_disk(folder)
    return datasets.load_from_disk(str(folder))


@pytest.mark.parametrize(
    ("name", "folder", "hub_id"),
    [
        ("tiny_imagenet", "zh-plus___tiny-imagenet/default/0.0.0/1", "zh-plus/tiny-imagenet"),
        ("someone/MyPhotos", "someone___my_photos/default/0.0.0/1", "someone/MyPhotos"),
        ("tiny_imagenet", "tiny-imagenet/default/0.0.0/1", None),
        ("tiny_imagenet", "other___tiny-imagenet/default/0.0.0/1", None),
        ("photos", "someone___photos/default/0.0.0/1", None),
    ],
)
def test_only_what_datasets_downloaded_is_of_the_hub(
    name: str, folder: str, hub_id: str | None, tmp_path: Path
) -> None:
    data = ImageDataset(below(tmp_path / folder), name=name, split="train:fit")
    assert hub_id_of(data) == hub_id
    assert hub_id_of(data.keep_classes(["red", "green"])) == hub_id


@pytest.mark.parametrize(
    ("file", "hub_id"),
    [
        ("hub/datasets--clip-benchmark--wds_country211/snapshots/0/train/0.tar", "clip-benchmark/wds_country211"),
        ("mine/country211/train/0.tar", None),
    ],
)
def test_shards_say_themselves_where_they_lay(file: str, hub_id: str | None) -> None:
    rows = coloured_rows(6).add_column("__url__", [f"/home/me/{file}"] * 6)
    assert hub_id_of(ImageDataset(rows, name="country211")) == hub_id


def test_a_record_names_each_source_and_its_images(coloured_folder: Path) -> None:
    local = load_image_dataset(str(coloured_folder), "train")
    digits: Any = DataSource("digits").load()
    assert data_record(Mixture([local, digits], [2, 1])) == {
        "data": f"{coloured_folder.name}/train, digits/train",
        "data read": [
            {"data": f"{coloured_folder.name}/train", "images": 48, "from": "a local copy"},
            {"data": "digits/train", "images": len(digits), "from": "an installed package"},
        ],
    }


def test_the_trainer_records_steps_batches_and_a_local_copy(make: Any, tmp_path: Path) -> None:
    data = ImageDataset(below(tmp_path / "tiny_imagenet"), name="tiny_imagenet")
    settings = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "eval_samples": 6}
    settings |= {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_clean_accuracy", "learning_rate": 0.0}
    trainer = make(folder=tmp_path / "out", train_dataset=data, max_steps=2, **settings)
    trainer.train()
    trainer.save_model()
    for folder, steps in (("out/checkpoint-1", 1), ("out/checkpoint-2", 2), ("out", 1)):
        record = json.loads((tmp_path / folder / "config.json").read_text())["robustness"]
        assert (record["steps"], record["batch size"]) == (steps, 4)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "datasets" not in card.data.to_dict()
    assert "- data: tiny_imagenet/train, 12 images, read from a local copy\n- steps: 1\n- batch size: 4\n" in card.text
