"""Adaptations: which parameters learn."""

from collections.abc import Callable

from .base import Adaptation
from .full import FullFineTuning
from .lora import LoRA, PeftMethod
from .prompts import Prompts

ADAPTATIONS: dict[str, Callable[..., Adaptation]] = {
    "full": FullFineTuning,
    "lora": LoRA,
    "peft": PeftMethod,
    "prompts": Prompts,
}

__all__ = ["ADAPTATIONS", "Adaptation", "FullFineTuning", "LoRA", "PeftMethod", "Prompts"]
