"""CLIP models that adversaries cannot fool, and an honest number for how well they hold."""

from robust_clip.attacks import FGSM, PGD
from robust_clip.evaluation import evaluate_robustness, get_protocol, get_protocols
from robust_clip.models import (
    RobustCLIPConfig,
    RobustCLIPModel,
    ZeroShotClassifier,
    load_checkpoint,
    packaged_checkpoint,
)
from robust_clip.objectives import Clean, Contrastive, TeCoA
from robust_clip.threat_model import ThreatModel
from robust_clip.training import AdversarialTrainer, AdversarialTrainingArguments

__all__ = [
    "FGSM",
    "PGD",
    "AdversarialTrainer",
    "AdversarialTrainingArguments",
    "Clean",
    "Contrastive",
    "RobustCLIPConfig",
    "RobustCLIPModel",
    "TeCoA",
    "ThreatModel",
    "ZeroShotClassifier",
    "evaluate_robustness",
    "get_protocol",
    "load_checkpoint",
    "packaged_checkpoint",
]
