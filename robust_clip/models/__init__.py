"""CLIP models that take pixels, and the zero-shot classifier over them."""

from .checkpoint import load_checkpoint, packaged_checkpoint
from .configuration import RobustCLIPConfig
from .modeling import RobustCLIPModel
from .zero_shot import ZeroShotClassifier, embed_classes

__all__ = [
    "RobustCLIPConfig",
    "RobustCLIPModel",
    "ZeroShotClassifier",
    "embed_classes",
    "load_checkpoint",
    "packaged_checkpoint",
]
