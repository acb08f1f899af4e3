"""A tiny CLIP, tiny data sets on disk, and no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPProcessor

from robust_clip.data import ImageDataset
from robust_clip.models import RobustCLIPModel
from robust_clip.models.scratch import build_clip

CLASS_NAMES = ["red", "green", "blue"]
_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}

# Models this small only lose by threads, and lose badly on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved CLIP of width 16 for 16-pixel images, with its processor."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny_clip")
    texts = [f"a photo of a {name}" for name in CLASS_NAMES]
    vision = {**_TOWER, "image_size": 16, "patch_size": 8}
    model, processor = build_clip(texts, vision_config=vision, text_config=_TOWER, projection_dim=8, vocab_size=530)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_model(tiny_checkpoint: Path) -> RobustCLIPModel:
    """A fresh copy of the tiny CLIP in eval mode."""
    return RobustCLIPModel.from_pretrained(tiny_checkpoint).eval()


@pytest.fixture(scope="session")
def tiny_processor(tiny_checkpoint: Path) -> CLIPProcessor:
    """The tiny CLIP's processor."""
    return CLIPProcessor.from_pretrained(tiny_checkpoint)


def coloured_rows(n: int, side: int = 16, seed: int = 0) -> datasets.Dataset:
    """`n` noisy images whose dominant channel is their label."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % len(CLASS_NAMES)
    arrays = random.integers(0, 120, (n, side, side, 3), dtype=np.uint8)
    for array, label in zip(arrays, labels, strict=True):
        array[..., label] += 120
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASS_NAMES)})
    images = [Image.fromarray(array) for array in arrays]
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


@pytest.fixture(scope="session")
def coloured_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train.parquet` (48 images) and `test.parquet` (24 images)."""
    folder = tmp_path_factory.mktemp("coloured")
    coloured_rows(48, seed=0).to_parquet(folder / "train.parquet")
    coloured_rows(24, seed=1).to_parquet(folder / "test.parquet")
    return folder


@pytest.fixture
def coloured() -> ImageDataset:
    """24 images of three classes."""
    return ImageDataset(coloured_rows(24), name="coloured", split="test")
