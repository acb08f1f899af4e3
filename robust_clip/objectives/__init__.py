"""Training objectives, one paper per file."""

from .adaptive import adaptive_problem
from .base import Batch, Objective
from .caw import CAW
from .clean import Clean
from .contrastive import Contrastive
from .fare import FARE
from .leaf import LEAF
from .mmcoa import MMCoA
from .tecoa import TeCoA
from .tima import TIMA

OBJECTIVES: dict[str, type[Objective]] = {
    "caw": CAW,
    "clean": Clean,
    "contrastive": Contrastive,
    "fare": FARE,
    "leaf": LEAF,
    "mmcoa": MMCoA,
    "tecoa": TeCoA,
    "tima": TIMA,
}

__all__ = [
    "CAW",
    "FARE",
    "LEAF",
    "OBJECTIVES",
    "TIMA",
    "Batch",
    "Clean",
    "Contrastive",
    "MMCoA",
    "Objective",
    "TeCoA",
    "adaptive_problem",
]
