"""The adversarial Trainer and its arguments."""

from .arguments import AdversarialTrainingArguments
from .trainer import AdversarialTrainer

__all__ = ["AdversarialTrainer", "AdversarialTrainingArguments"]
