"""The Trainer that attacks each batch and minimises an objective on it."""

from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from robust_clip.adaptation import Adaptation
from robust_clip.attacks import Attack, AttackRun, TextAttack, sample_generators
from robust_clip.data import PixelCollator
from robust_clip.evaluation import Protocol, Row, evaluate_robustness, get_protocol, weights_revision
from robust_clip.hub import this_hardware
from robust_clip.models import RobustCLIPModel
from robust_clip.objectives import Batch, Objective
from robust_clip.threat_model import ThreatModel

from .adapted import adapt, default_adaptation, drop_towers, load_learned, original_of
from .arguments import AdversarialTrainingArguments
from .batches import BatchMaker
from .callbacks import callbacks_of
from .model_card import Told, base_on_record, write_trainer_card
from .resume import last_complete_checkpoint
from .steps import (
    as_images,
    check_arguments,
    check_compatible,
    inner_problem,
    refuse_sharded_weights,
    set_text_learning_rate,
    split_run,
    training_record,
    zero_loss,
)


class AdversarialTrainer(Trainer):
    """`transformers.Trainer` with an inner attack, named loss terms and robust evaluation.

    Args:
        model: A `RobustCLIPModel`.
        args: Training arguments.
        objective: The paper's loss.
        attack: The inner attack; `None` for objectives that need none. An `AttackRun` says what it climbs in place of
            the paper's inner loss.
        threat_model: What the inner attack may do; given if and only if `attack` is.
        text_attack: The attack on captions, for objectives that train on attacked captions.
        adaptation: Which parameters learn; by default the towers that the objective trains, and the temperature too
            where it trains text.
        train_dataset: An `ImageDataset`, a `Mixture`, or a `datasets.Dataset` with an image and a `ClassLabel` column.
        eval_dataset: One such data set with classes, or a dict of them.
        processing_class: The `CLIPProcessor` of the checkpoint.
        data_collator: By default a `PixelCollator` that keeps native grids.
        **kwargs: Passed to `transformers.Trainer`.

    Raises:
        ValueError: If the objective needs an attack and none is given, or the other way round, or it trains text and
            the adaptation freezes the text tower, or the data lacks what the objective needs.
    """

    args: AdversarialTrainingArguments

    def __init__(
        self,
        model: RobustCLIPModel,
        args: AdversarialTrainingArguments,
        *,
        objective: Objective,
        attack: Attack | AttackRun | None = None,
        threat_model: ThreatModel | None = None,
        text_attack: TextAttack | None = None,
        adaptation: Adaptation | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        self.attack, self.attack_run = split_run(attack)
        adaptation = adaptation or default_adaptation(objective)
        train_dataset, eval_dataset = as_images(train_dataset), as_images(eval_dataset)
        check_arguments(args, model)
        check_compatible(objective, self.attack, threat_model, text_attack, adaptation, train_dataset)
        self.objective: Objective = objective
        self.threat_model: ThreatModel | None = threat_model
        self.base_model = model.name_or_path or None
        model = adapt(model, adaptation, getattr(processing_class, "tokenizer", None), train_dataset, eval_dataset)
        self.record = training_record(objective, attack, threat_model, text_attack, adaptation, train_dataset)
        self.record |= base_on_record(self.base_model) | {"hardware": this_hardware(args.world_size)}
        model.config.robustness = self.record
        if not kwargs.get("data_collator"):
            kwargs["data_collator"] = PixelCollator(model.image_size, seed=args.data_seed or args.seed)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        refuse_sharded_weights(self.is_fsdp_enabled)
        for callback in callbacks_of(train_dataset, self.record):
            self.add_callback(callback)
        # Only now, since the Trainer has moved the model to its device.
        self.teacher, self.batches = self._set_out(model, train_dataset, text_attack)
        # `compute_loss` returns a mean over the batch, so the Trainer must divide by the accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self.rows: list[Row] = []
        self._term_sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.args.device))
        self._terms_seen = 0
        self._skipped = 0

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As the Trainer's, with the text tower's own learning rate where there is one."""
        new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        if self.args.text_learning_rate is not None:
            if not new:
                raise ValueError("text_learning_rate does nothing to an optimizer of your own; leave one out.")
            set_text_learning_rate(optimizer, self.model, self.args.text_learning_rate)
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Attacks the batch, then sums the objective's terms on it."""
        self._skipped += len(inputs.get("skipped", ()))
        if not len(inputs["pixels"]):
            # Every image of the batch was unreadable. The other processes wait for this one's gradients.
            nothing = model(compute=zero_loss)
            return (nothing, {}) if return_outputs else nothing
        student = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        batch = self.batches.make(student, self.teacher, inputs, self.state.global_step)
        batch.adversarial = self._attacked(model, batch, inputs["index"])
        terms = model(compute=partial(self.objective, teacher=self.teacher, batch=batch))
        self._refuse_non_finite(terms)
        for name, term in terms.items():
            self._term_sums[name] += term.detach()
        self._terms_seen += 1
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        return (loss, terms) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each term's mean since the last log to the Trainer's own entries."""
        if "loss" in logs and self._terms_seen:
            for name, total in self._term_sums.items():
                logs[f"loss/{name}"] = self.accelerator.reduce(total / self._terms_seen, "mean").item()
            if self.batches.text_attack is not None:
                logs["text_attack_seconds"] = self.batches.text_attack_seconds / self._terms_seen
                self.batches.text_attack_seconds = 0.0
            self._term_sums.clear()
            self._terms_seen = 0
            if self._skipped:
                logs["skipped_images"] = self._skipped
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Clean and, under the threat model, robust accuracy.

        Args:
            eval_dataset: In place of the one given at construction; a dict of data sets prefixes each metric.
            ignore_keys: Not used; part of the Trainer's signature.
            metric_key_prefix: Prefix of the metrics' names.

        Returns:
            `eval_clean_accuracy` and, where there is a threat model, `eval_robust_accuracy`, in [0, 1].
        """
        eval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if eval_dataset is None:
            raise ValueError("Nothing to evaluate: give an eval_dataset with class labels.")
        if isinstance(eval_dataset, dict):
            metrics: dict[str, float] = {}
            for name, dataset in eval_dataset.items():
                metrics |= self.evaluate(dataset, ignore_keys, f"{metric_key_prefix}_{name}")
            return metrics
        row = evaluate_robustness(
            self.accelerator.unwrap_model(self.model, keep_torch_compile=False),
            self.processing_class.tokenizer,
            as_images(eval_dataset),
            self._protocol(),
            seed=self.args.seed,
            batch_size=self.args.per_device_eval_batch_size,
            on_bad_image=getattr(self.data_collator, "on_bad_image", "raise"),
        )
        self.rows = [known for known in self.rows if known.dataset != row.dataset] + [row]
        metrics = {f"{metric_key_prefix}_clean_accuracy": row.clean_accuracy}
        if row.robust_accuracy is not None:
            metrics[f"{metric_key_prefix}_robust_accuracy"] = row.robust_accuracy
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def create_model_card(  # type: ignore[override]  # what rows and the record tell is not taken from a caller
        self, *, model_name: str | None = None, license: str | None = None, **metadata: Any
    ) -> None:
        """Writes the card of the current weights, rendered from `rows`, and its plots into the output directory.

        Args:
            model_name: Title, where there is no repository on the Hub yet.
            license: Of the weights, as an identifier of the Hub.
            **metadata: Further entries of the metadata, such as `language` and `tags`.
        """
        if self.is_world_process_zero():
            told = Told(model_name or "", license, metadata=metadata)
            self._write_card(Path(self.args.output_dir or "."), told, plots=True)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self._write_card(Path(output_dir or self.args.output_dir or "."), Told(""))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """As the Trainer's, also of adapters and prompts alone."""
        if not load_learned(self.model, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        """As the Trainer's, also of adapters and prompts alone."""
        if not load_learned(self.model, str(self.state.best_model_checkpoint)):
            super()._load_best_model()

    def _write_card(self, folder: Path, told: Told, plots: bool = False) -> None:
        # The repository's full name is what its code blocks load the weights by.
        named = getattr(self, "hub_model_id", None) or self.args.hub_model_id or told.title
        told = replace(told, title=named or Path(self.args.output_dir or ".").resolve().name)
        rows = self._rows_of_these_weights()
        write_trainer_card(folder, told, rows, self.record, self.state.log_history, plots=plots)

    def _rows_of_these_weights(self) -> list[Row]:
        """What was measured of weights that training, or the return to the best checkpoint, replaced is left out."""
        if not self.rows:
            return []
        revision = weights_revision(self.accelerator.unwrap_model(self.model, keep_torch_compile=False))
        return [row for row in self.rows if row.model["revision"] == revision]

    def _protocol(self) -> Protocol:
        if self.threat_model is None:
            return get_protocol("clean", samples=self.args.eval_samples)
        protocol = get_protocol(self.args.eval_protocol, samples=self.args.eval_samples)
        return replace(protocol, threat_model=self.threat_model) if protocol.attacks else protocol

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated: the Trainer's formula counts tokens of one forward pass, not an attack."""
        return 0

    def _set_out(
        self, model: RobustCLIPModel, data: Any, text_attack: TextAttack | None
    ) -> tuple[RobustCLIPModel | None, BatchMaker]:
        """The frozen original, if the objective needs one, and what makes batches, which asks it what it will need."""
        teacher = original_of(model) if self.objective.needs_teacher else None
        batches = BatchMaker(
            self.objective,
            self.processing_class.tokenizer if self.processing_class is not None else None,
            getattr(data, "class_names", None),
            getattr(data, "templates", ()),
            attacked=self.attack is not None,
            text_attack=text_attack,
            seed=self.args.seed,
        )
        batches.remember(teacher or model)
        if teacher is not None:
            drop_towers(teacher, model, self.objective.teacher_towers)
        return teacher, batches

    def _attacked(self, model: nn.Module, batch: Batch, index: Tensor) -> Tensor:
        if self.attack is None or self.threat_model is None:
            return batch.pixels
        # Not through DDP's wrapper: its reducer would wait for gradients of the inner passes.
        victim = self.accelerator.unwrap_model(model)
        forward, loss = inner_problem(self.objective, self.attack_run, victim, self.teacher, batch)
        eot_samples = self.attack_run.eot_samples if self.attack_run else 1
        # One stream per image and step, so that neither batch size nor the number of processes changes a start.
        generators = sample_generators(self.args.seed + (self.state.global_step << 32), index.tolist())
        try:
            return self.attack(forward, batch.pixels, loss, self.threat_model, generators, eot_samples=eot_samples)
        except FloatingPointError as error:
            raise FloatingPointError(f"The inner attack failed: {error}. {self._where()}") from error

    def _refuse_non_finite(self, terms: dict[str, Tensor]) -> None:
        bad = [name for name, term in terms.items() if not torch.isfinite(term)]
        if bad:
            raise FloatingPointError(f"The loss term {bad[0]!r} is {terms[bad[0]].item()}. {self._where()}")

    def _where(self) -> str:
        last = last_complete_checkpoint(self.args.output_dir or ".")
        return (
            f"Training stopped at step {self.state.global_step}; last good checkpoint: {last or 'none yet'}. "
            "Lower the learning rate or epsilon, or train in fp32."
        )

