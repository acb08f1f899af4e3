"""Attacks: a search for adversarial images, apart from the loss it climbs and the threat model it keeps to."""

from robust_clip.attacks.base import Attack, Forward, Problem, input_gradient, judge, sample_generators
from robust_clip.attacks.fgsm import FGSM
from robust_clip.attacks.losses import LOSSES, AttackLoss, CrossEntropy, EmbeddingDistance, Margin
from robust_clip.attacks.pgd import PGD

ATTACKS: dict[str, type[Attack]] = {"fgsm": FGSM, "pgd": PGD}

__all__ = [
    "ATTACKS",
    "FGSM",
    "LOSSES",
    "PGD",
    "Attack",
    "AttackLoss",
    "CrossEntropy",
    "EmbeddingDistance",
    "Forward",
    "Margin",
    "Problem",
    "input_gradient",
    "judge",
    "sample_generators",
]
