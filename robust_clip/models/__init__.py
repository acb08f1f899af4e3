"""CLIP models that take pixels, and the zero-shot classifier over them."""

from .checkpoint import load_checkpoint
from .clip_score import clip_score_model
from .configuration import PromptedCLIPConfig, RobustCLIPConfig
from .interpolation import interpolate
from .modeling import TOWERS, RobustCLIPModel
from .onnx import export_classifier, export_image_tower, export_text_tower
from .packaged import packaged_checkpoint
from .presence import require_checkpoint
from .prompt_sizes import PromptSizes
from .prompted import CONTEXT_TEMPLATE, PromptedCLIPModel, class_templates
from .r_tpt import RTPT
from .test_time import DefendedClassifier, Draws, Passes, TestTimeDefence
from .ttc import TTC
from .vlm import swap_vision_tower
from .zero_shot import ZeroShotClassifier, embed_classes, embed_texts, fill_templates, pool_templates

TEST_TIME_DEFENCES: dict[str, type[TestTimeDefence]] = {"r_tpt": RTPT, "ttc": TTC}

__all__ = [
    "CONTEXT_TEMPLATE",
    "RTPT",
    "TEST_TIME_DEFENCES",
    "TOWERS",
    "TTC",
    "DefendedClassifier",
    "Draws",
    "Passes",
    "PromptSizes",
    "PromptedCLIPConfig",
    "PromptedCLIPModel",
    "RobustCLIPConfig",
    "RobustCLIPModel",
    "TestTimeDefence",
    "ZeroShotClassifier",
    "class_templates",
    "clip_score_model",
    "embed_classes",
    "embed_texts",
    "export_classifier",
    "export_image_tower",
    "export_text_tower",
    "fill_templates",
    "interpolate",
    "load_checkpoint",
    "packaged_checkpoint",
    "pool_templates",
    "require_checkpoint",
    "swap_vision_tower",
]
