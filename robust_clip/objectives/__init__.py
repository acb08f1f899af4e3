"""Training objectives, one paper per file."""

from .base import Batch, Objective, adaptive_problem
from .clean import Clean
from .contrastive import Contrastive
from .tecoa import TeCoA

OBJECTIVES: dict[str, type[Objective]] = {"clean": Clean, "contrastive": Contrastive, "tecoa": TeCoA}

__all__ = ["OBJECTIVES", "Batch", "Clean", "Contrastive", "Objective", "TeCoA", "adaptive_problem"]
