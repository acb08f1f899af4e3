"""Adaptations: which parameters learn."""

from .full import FullFineTuning

ADAPTATIONS: dict[str, type[FullFineTuning]] = {"full": FullFineTuning}

__all__ = ["ADAPTATIONS", "FullFineTuning"]
