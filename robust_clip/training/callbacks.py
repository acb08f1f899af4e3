"""What the Trainer does between its steps."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class EpochForData(TrainerCallback):
    """Tells the training data which epoch it is, before the first batch of the epoch is drawn.

    accelerate's loaders do so only when they do not wrap the sampler: not with several processes, and not in the rest
    of an epoch that a resumed run goes on with.

    Args:
        dataset: Has `set_epoch`.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """`state.epoch` is a fraction that rounding may have left just below the whole."""
        self.dataset.set_epoch(int((state.epoch or 0) + 1e-6))
