"""What the Trainer does between its steps."""

from collections.abc import Iterator
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


class ProgressOnRecord(TrainerCallback):
    """Keeps on record how long the weights were trained: `steps`, and the `batch size` of each.

    Args:
        record: Of the training, as the configuration of the model has it.
    """

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before what is saved at this step."""
        images = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.record |= {"steps": state.global_step, "batch size": images}

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The Trainer has gone back to the best checkpoint, if it was asked to."""
        if args.load_best_model_at_end and state.best_global_step:
            self.record["steps"] = state.best_global_step


def callbacks_of(dataset: Any, record: dict[str, Any]) -> Iterator[TrainerCallback]:
    """Those of every run; `dataset` is what it trains on, if anything."""
    yield ProgressOnRecord(record)
    if dataset is not None:
        yield EpochForData(dataset)
