"""Training arguments: those of transformers, and how robustness is measured along the way."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from robust_clip.evaluation import get_protocol


@dataclass
class AdversarialTrainingArguments(TrainingArguments):
    """`TrainingArguments` with robust evaluation.

    Args:
        eval_protocol: Name of the protocol that `evaluate()` uses for robust accuracy when a threat model is given.
        eval_samples: How many images of the evaluation set are attacked; `None` for all.
        text_learning_rate: Of the text tower, where it learns; `None` for `learning_rate`.
        dataloader_pin_memory: As of transformers, but by default only where there is an accelerator, since torch warns
            of it elsewhere.

    Raises:
        ValueError: If the protocol is unknown, or a learning rate is negative.
    """

    eval_protocol: str = field(default="pgd20", metadata={"help": "Protocol of robust evaluation during training."})
    eval_samples: int | None = field(default=None, metadata={"help": "Images attacked in evaluation; all if not set."})
    text_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the text tower; that of all else if not set."}
    )
    dataloader_pin_memory: bool | None = field(  # type: ignore[assignment]  # no longer None after construction
        default=None, metadata={"help": "Whether to pin memory of batches; by default where there is an accelerator."}
    )

    def __post_init__(self) -> None:
        if self.dataloader_pin_memory is None:
            self.dataloader_pin_memory = torch.accelerator.is_available()
        super().__post_init__()
        if self.text_learning_rate is not None and not self.text_learning_rate >= 0:
            raise ValueError(f"text_learning_rate must not be negative, got {self.text_learning_rate}.")
        get_protocol(self.eval_protocol)
        # Images are not arguments of the model's forward, so the Trainer would drop them.
        self.remove_unused_columns = False
        # A term that is not finite stops training with its name; averaging it away would hide it.
        self.logging_nan_inf_filter = False
