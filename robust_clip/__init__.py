"""CLIP models that adversaries cannot fool, and an honest number for how well they hold."""

from robust_clip.attacks import (
    APGD,
    FAB,
    FGSM,
    LEAF,
    PGD,
    SGA,
    AttackRun,
    AutoAttack,
    BERTAttack,
    CarliniWagner,
    Charmer,
    CoAttack,
    Square,
    WordList,
)
from robust_clip.evaluation import Protocol, evaluate_robustness, get_protocol, get_protocols
from robust_clip.models import (
    RobustCLIPConfig,
    RobustCLIPModel,
    ZeroShotClassifier,
    load_checkpoint,
    packaged_checkpoint,
)
from robust_clip.objectives import CAW, FARE, PMGAFT, TGAZSR, TIMA, Clean, Contrastive, MMCoA, TeCoA
from robust_clip.threat_model import ThreatModel
from robust_clip.training import AdversarialTrainer, AdversarialTrainingArguments

__all__ = [
    "APGD",
    "CAW",
    "FAB",
    "FARE",
    "FGSM",
    "LEAF",
    "PGD",
    "PMGAFT",
    "SGA",
    "TGAZSR",
    "TIMA",
    "AdversarialTrainer",
    "AdversarialTrainingArguments",
    "AttackRun",
    "AutoAttack",
    "BERTAttack",
    "CarliniWagner",
    "Charmer",
    "Clean",
    "CoAttack",
    "Contrastive",
    "MMCoA",
    "Protocol",
    "RobustCLIPConfig",
    "RobustCLIPModel",
    "Square",
    "TeCoA",
    "ThreatModel",
    "WordList",
    "ZeroShotClassifier",
    "evaluate_robustness",
    "get_protocol",
    "get_protocols",
    "load_checkpoint",
    "packaged_checkpoint",
]
