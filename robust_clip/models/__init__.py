"""CLIP models that take pixels, and the zero-shot classifier over them."""

from .checkpoint import load_checkpoint, packaged_checkpoint
from .configuration import RobustCLIPConfig
from .interpolation import interpolate
from .modeling import TOWERS, RobustCLIPModel
from .zero_shot import ZeroShotClassifier, embed_classes, embed_texts, fill_templates, pool_templates

__all__ = [
    "TOWERS",
    "RobustCLIPConfig",
    "RobustCLIPModel",
    "ZeroShotClassifier",
    "embed_classes",
    "embed_texts",
    "fill_templates",
    "interpolate",
    "load_checkpoint",
    "packaged_checkpoint",
    "pool_templates",
]
