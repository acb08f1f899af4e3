"""Training objectives, one paper per file."""

from .adaptive import adaptive_problem
from .base import Batch, Objective
from .clean import Clean
from .contrastive import Contrastive
from .tecoa import TeCoA

OBJECTIVES: dict[str, type[Objective]] = {"clean": Clean, "contrastive": Contrastive, "tecoa": TeCoA}

__all__ = ["OBJECTIVES", "Batch", "Clean", "Contrastive", "Objective", "TeCoA", "adaptive_problem"]
