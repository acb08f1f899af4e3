"""The Trainer that attacks each batch and minimises an objective on it."""

import copy
import logging
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from robust_clip.adaptation import FullFineTuning
from robust_clip.attacks import Attack, sample_generators
from robust_clip.data import ImageDataset, Mixture, PixelCollator
from robust_clip.models import RobustCLIPModel, embed_classes
from robust_clip.models.zero_shot import tokenize
from robust_clip.objectives import Batch, Objective
from robust_clip.threat_model import ThreatModel

from .arguments import AdversarialTrainingArguments

logger = logging.getLogger(__name__)


class AdversarialTrainer(Trainer):
    """`transformers.Trainer` with an inner attack, named loss terms and robust evaluation.

    Args:
        model: A `RobustCLIPModel`.
        args: Training arguments.
        objective: The paper's loss.
        attack: The inner attack; `None` for objectives that need none.
        threat_model: What the inner attack may do; given if and only if `attack` is.
        adaptation: Which parameters learn; by default the vision tower, and the text tower and temperature too where
            the objective trains text.
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
        attack: Attack | None = None,
        threat_model: ThreatModel | None = None,
        adaptation: FullFineTuning | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        towers = ("vision", "text") if objective.trains_text else ("vision",)
        adaptation = adaptation or FullFineTuning(towers, logit_scale=objective.trains_text)
        train_dataset = _as_images(train_dataset)
        _check(objective, attack, threat_model, adaptation, train_dataset)
        self.objective, self.attack, self.threat_model = objective, attack, threat_model
        adaptation.apply(model)
        self.teacher = _frozen_copy(model) if objective.needs_teacher else None
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
        # `compute_loss` returns a mean over the batch, so the Trainer must divide by the accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self._frozen_class_embeds: Tensor | None = None
        self._term_sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.args.device))
        self._terms_seen = 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Attacks the batch, then sums the objective's terms on it."""
        batch = self._batch(inputs)
        if self.attack is not None:
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
            self._term_sums.clear()
            self._terms_seen = 0
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated: the Trainer's formula counts tokens of one forward pass, not an attack."""
        return 0

    def _batch(self, inputs: dict[str, Any]) -> Batch:
        batch = Batch(inputs["pixels"], inputs["pixels"], inputs["labels"])
        if self.objective.needs_classes or self.attack is not None:
            batch.class_embeds = self._class_embeds()
        if self.objective.needs_captions:
            distinct = list(dict.fromkeys(inputs["texts"]))
            tokens = tokenize(self.processing_class.tokenizer, distinct, batch.pixels.device)
            batch.input_ids, batch.attention_mask = tokens["input_ids"], tokens["attention_mask"]
            position = {text: row for row, text in enumerate(distinct)}
            batch.text_index = torch.tensor([position[text] for text in inputs["texts"]], device=batch.pixels.device)
        return batch

    def _class_embeds(self) -> Tensor:
        if self._frozen_class_embeds is None:
            data = self.train_dataset
            model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
            tokenizer = self.processing_class.tokenizer
            self._frozen_class_embeds = embed_classes(model, tokenizer, data.class_names, data.templates)
        return self._frozen_class_embeds

    def _attacked(self, model: nn.Module, batch: Batch, index: Tensor) -> Tensor:
        # FSDP shards parameters, so there the attack has to go through the wrapper; under DDP it must not, since
        # the reducer would wait for gradients of the inner passes.
        victim = model if self.is_fsdp_enabled else self.accelerator.unwrap_model(model)
        forward, loss = self.objective.inner_problem(victim, self.teacher, batch)
        # One stream per image and step, so that neither batch size nor the number of processes changes a start.
        step_seed = (self.args.seed, self.state.global_step)
        generators = sample_generators(hash(step_seed), index.tolist())
        return self.attack(forward, batch.pixels, loss, self.threat_model, generators)

    def _refuse_non_finite(self, terms: dict[str, Tensor]) -> None:
        bad = [name for name, term in terms.items() if not torch.isfinite(term)]
        if bad:
            last = get_last_checkpoint(self.args.output_dir) if Path(self.args.output_dir).is_dir() else None
            raise FloatingPointError(
                f"The loss term {bad[0]!r} is {terms[bad[0]].item()} at step {self.state.global_step}. Last good "
                f"checkpoint: {last or 'none yet'}. Lower the learning rate or epsilon, or train in fp32."
            )


def _as_images(dataset: Any) -> Any:
    return ImageDataset(dataset) if isinstance(dataset, datasets.Dataset) else dataset


def _frozen_copy(model: RobustCLIPModel) -> RobustCLIPModel:
    # Frozen parameters are shared through the memo: only what learns is held twice.
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    return copy.deepcopy(model, shared).eval().requires_grad_(False)


def _check(
    objective: Objective,
    attack: Attack | None,
    threat_model: ThreatModel | None,
    adaptation: FullFineTuning,
    train_dataset: Any,
) -> None:
    name = type(objective).__name__
    if (attack is None) != (threat_model is None):
        raise ValueError("An attack needs a threat model and a threat model an attack; only one was given.")
    if objective.needs_attack and attack is None:
        raise ValueError(f"{name} trains on adversarial images: give an attack and a threat model.")
    if not objective.needs_attack and attack is not None:
        raise ValueError(f"{name} has no use for an attack; leave out attack and threat_model.")
    if objective.trains_text and "text" not in adaptation.towers:
        raise ValueError(f"{name} trains the text tower, but the adaptation trains only {list(adaptation.towers)}.")
    if train_dataset is None:
        return
    if objective.needs_classes and (isinstance(train_dataset, Mixture) or train_dataset.class_names is None):
        raise ValueError(f"{name} needs one data set with class labels, got {type(train_dataset).__name__}.")
