"""Data sets, templates and the collator that turns images into pixels."""

from .collator import Augmentation, PixelCollator
from .datasets import DATASETS, DatasetRow, load_image_dataset
from .images import ImageDataset
from .mixture import Mixture
from .prompts import templates_for
from .source import DataSource

__all__ = [
    "DATASETS",
    "Augmentation",
    "DataSource",
    "DatasetRow",
    "ImageDataset",
    "Mixture",
    "PixelCollator",
    "load_image_dataset",
    "templates_for",
]
