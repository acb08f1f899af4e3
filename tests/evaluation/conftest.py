"""A CLIP that tells most of some faintly coloured images apart, and loses a few more to each of two attacks."""

import argparse
import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from robust_clip.attacks import PGD, AttackRun
from robust_clip.cli import evaluate
from robust_clip.data import PixelCollator, load_image_dataset
from robust_clip.evaluation import Protocol, Row, evaluate_robustness, read_samples
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier, embed_classes
from robust_clip.threat_model import ThreatModel


@pytest.fixture(scope="session")
def faint_folder(tmp_path_factory):
    """`test.parquet` with 24 noisy images, from no colour at all to clearly red, green or blue."""
    labels = np.arange(24) % 3
    arrays = np.random.default_rng(1).integers(0, 120, (24, 16, 16, 3))
    for place, (array, label) in enumerate(zip(arrays, labels, strict=True)):
        array[..., label] += 5 * place
    names = datasets.ClassLabel(names=["red", "green", "blue"])
    pictures = [Image.fromarray(array.astype(np.uint8)) for array in arrays]
    features = datasets.Features({"image": datasets.Image(), "label": names})
    folder = tmp_path_factory.mktemp("faint")
    datasets.Dataset.from_dict({"image": pictures, "label": labels}, features).to_parquet(folder / "test.parquet")
    return folder


@pytest.fixture(scope="session")
def trained_checkpoint(tiny_checkpoint, tiny_processor, coloured_folder, tmp_path_factory):
    torch.manual_seed(0)
    model = RobustCLIPModel.from_pretrained(tiny_checkpoint)
    train = load_image_dataset(str(coloured_folder), "train")
    class_embeds = embed_classes(model, tiny_processor.tokenizer, train.class_names, train.templates)
    classifier = ZeroShotClassifier(model, class_embeds)
    batch = PixelCollator(model.image_size)([train[row] for row in range(len(train))])
    optimizer = torch.optim.AdamW(model.vision_model.parameters(), lr=1e-2)
    for _ in range(14):
        optimizer.zero_grad()
        F.cross_entropy(classifier(batch["pixels"]), batch["labels"]).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("trained") / "trained_clip"
    model.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder


@pytest.fixture
def model(trained_checkpoint):
    return RobustCLIPModel.from_pretrained(trained_checkpoint)


@pytest.fixture(scope="session")
def tokenizer(tiny_processor):
    return tiny_processor.tokenizer


@pytest.fixture
def images(faint_folder):
    return load_image_dataset(str(faint_folder), "test")


@pytest.fixture(scope="session")
def two_attacks():
    """An attack that breaks some images, and a stronger one that breaks some more."""
    weak, strong = PGD(steps=1, random_start=False), PGD(steps=4, stop_when_fooled=True)
    return Protocol("short", 1, (AttackRun(weak), AttackRun(strong, "margin")), ThreatModel("linf", "24/255"))


@pytest.fixture(scope="session")
def folder_of():
    """Read the one folder of records below a root, as (row, samples)."""

    def read(root):
        (row,) = root.glob("*/*/row.json")
        return Row.read(row), read_samples(row.with_name("samples.parquet"))[0]

    return read


@pytest.fixture(scope="session")
def whole(trained_checkpoint, tokenizer, faint_folder, two_attacks, tmp_path_factory, folder_of):
    """Row and samples of the two attacks on all images, in one go."""
    folder = tmp_path_factory.mktemp("whole")
    model = RobustCLIPModel.from_pretrained(trained_checkpoint)
    images = load_image_dataset(str(faint_folder), "test")
    evaluate_robustness(model, tokenizer, images, two_attacks, records_dir=folder)
    return folder_of(folder)


@pytest.fixture
def row():
    """A row with other numbers: `row(clean_accuracy=0.5)`."""
    identity = {
        "model": {"id": "clip", "revision": "sha256:0123456789"},
        "dataset": {"name": "coloured", "split": "test", "revision": "1", "templates": ["a {}"], "prompts": "2"},
        "protocol": Protocol("p", 1, (AttackRun(PGD()),), ThreatModel("linf", "4/255")).as_dict(),
        "threat_model": "linf 4/255",
        "seed": 0,
    }
    numbers = {
        "n": 4,
        "skipped": 0,
        "clean_accuracy": 0.75,
        "clean_interval": (0.3, 0.95),
        "robust_accuracy": 0.25,
        "robust_interval": (0.05, 0.7),
        "checks": [],
        "versions": {"torch": "2"},
        "seconds": 1.5,
        "finished": "2026-01-01T00:00:00+00:00",
    }
    return lambda **changes: Row(**json.loads(json.dumps(identity)) | numbers | changes)


@pytest.fixture
def command(trained_checkpoint, faint_folder):
    """Run the command on the trained model and the faint images: `command("--format", "json")`."""

    def run(*arguments):
        parser = argparse.ArgumentParser()
        evaluate.add_parser(parser.add_subparsers())
        where = ["--model", str(trained_checkpoint), "--datasets", str(faint_folder), "--samples", "3"]
        args = parser.parse_args(["evaluate", *where, "--protocol", "pgd20", *arguments])
        return args.run(args)

    return run
