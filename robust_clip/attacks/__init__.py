"""Attacks: searches for adversarial images or texts, apart from the loss they climb and the threat model they keep."""

from robust_clip.attacks.apgd import APGD
from robust_clip.attacks.auto_attack import VERSIONS, AutoAttack, fit_to_classes
from robust_clip.attacks.base import Attack, Forward, Problem, input_gradient, sample_generators
from robust_clip.attacks.bert_attack import BERTAttack
from robust_clip.attacks.carlini_wagner import CarliniWagner
from robust_clip.attacks.character import LEAF, Charmer
from robust_clip.attacks.embedding import EMBEDDING_LOSSES, EmbeddingDistance, JointDivergence, SetDissimilarity
from robust_clip.attacks.fab import FAB
from robust_clip.attacks.fgsm import FGSM
from robust_clip.attacks.losses import DLR, LOSSES, AttackLoss, CrossEntropy, Margin
from robust_clip.attacks.multimodal import MULTIMODAL_ATTACKS, SGA, CoAttack, MultimodalAttack
from robust_clip.attacks.pgd import PGD
from robust_clip.attacks.runs import AttackRun, InnerProblem, Victim
from robust_clip.attacks.square import Square
from robust_clip.attacks.text import TextAttack
from robust_clip.attacks.text_registry import TEXT_ATTACKS
from robust_clip.attacks.word_list import WordList

ATTACKS: dict[str, type[Attack]] = {
    "apgd": APGD,
    "auto_attack": AutoAttack,
    "carlini_wagner": CarliniWagner,
    "fab": FAB,
    "fgsm": FGSM,
    "pgd": PGD,
    "square": Square,
}

__all__ = [
    "APGD",
    "ATTACKS",
    "DLR",
    "EMBEDDING_LOSSES",
    "FAB",
    "FGSM",
    "LEAF",
    "LOSSES",
    "MULTIMODAL_ATTACKS",
    "PGD",
    "SGA",
    "TEXT_ATTACKS",
    "VERSIONS",
    "Attack",
    "AttackLoss",
    "AttackRun",
    "AutoAttack",
    "BERTAttack",
    "CarliniWagner",
    "Charmer",
    "CoAttack",
    "CrossEntropy",
    "EmbeddingDistance",
    "Forward",
    "InnerProblem",
    "JointDivergence",
    "Margin",
    "MultimodalAttack",
    "Problem",
    "SetDissimilarity",
    "Square",
    "TextAttack",
    "Victim",
    "WordList",
    "fit_to_classes",
    "input_gradient",
    "sample_generators",
]
