"""CLIP models that take pixels, and the zero-shot classifier over them."""

from .configuration import RobustCLIPConfig
from .modeling import RobustCLIPModel
from .packaged import packaged_checkpoint
from .zero_shot import ZeroShotClassifier, embed_classes

__all__ = ["RobustCLIPConfig", "RobustCLIPModel", "ZeroShotClassifier", "embed_classes", "packaged_checkpoint"]
