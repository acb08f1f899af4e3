"""Data sets, templates and the collator that turns images into pixels."""

from .collator import Augmentation, PixelCollator
from .datasets import DATASETS, DatasetRow
from .images import ImageDataset
from .loading import load_image_dataset, load_image_datasets
from .mixture import Mixture
from .prompts import templates_for
from .source import DataSource
from .suites import SUITES

__all__ = [
    "DATASETS",
    "SUITES",
    "Augmentation",
    "DataSource",
    "DatasetRow",
    "ImageDataset",
    "Mixture",
    "PixelCollator",
    "load_image_dataset",
    "load_image_datasets",
    "templates_for",
]
