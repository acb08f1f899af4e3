"""What a training step sees, made of what the collator gives: class embeddings, tokens, attacked captions."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robust_clip.attacks import TextAttack
from robust_clip.models import (
    PromptedCLIPModel,
    RobustCLIPModel,
    class_templates,
    embed_classes,
    embed_texts,
    fill_templates,
    pool_templates,
)
from robust_clip.models.zero_shot import tokenize, warn_of_cut_texts
from robust_clip.objectives import Batch, Objective


class BatchMaker:
    """Makes batches, and computes once per run whatever of them does not change.

    Args:
        objective: Says what it needs.
        tokenizer: The tokenizer of the model.
        class_names: Of the training data; `None` if it has no classes.
        templates: Of the training data.
        attacked: Whether images are attacked, which class embeddings are needed for.
        text_attack: The attack on captions, for objectives that need one.
        seed: Of the attack on captions.
    """

    def __init__(
        self,
        objective: Objective,
        tokenizer: Any,
        class_names: Sequence[str] | None,
        templates: Sequence[str],
        *,
        attacked: bool,
        text_attack: TextAttack | None = None,
        seed: int = 0,
    ) -> None:
        self.objective = objective
        self.tokenizer = tokenizer
        self.class_names = class_names
        self.templates = templates
        self.text_attack = text_attack
        self.seed = seed
        self.text_attack_seconds = 0.0
        self._with_classes = class_names is not None and (objective.needs_classes or attacked)
        self._class_embeds: Tensor | None = None
        self._original_class_embeds: Tensor | None = None
        self._other_class_embeds: Tensor | None = None
        self._prompts: dict[str, Tensor] | None = None
        self._cut = False  # whether captions that are cut have been told of

    def remember(self, original: RobustCLIPModel) -> None:
        """Computes what the objective wants of the text tower as it was before training."""
        if not self._with_classes or self.class_names is None:
            return
        of_teacher = self.objective.needs_teacher and self.objective.trains_text
        if isinstance(original, PromptedCLIPModel) and (of_teacher or self.objective.other_template is not None):
            original = original.as_base()
        if of_teacher:
            self._original_class_embeds = embed_classes(original, self.tokenizer, self.class_names, self.templates)
        if self.objective.other_template is not None:
            other = [self.objective.other_template]
            self._other_class_embeds = embed_classes(original, self.tokenizer, self.class_names, other)

    def make(
        self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, inputs: dict[str, Any], step: int
    ) -> Batch:
        """The batch of a step, not attacked yet but for its captions.

        Args:
            student: Without a distributed wrapper.
            teacher: The frozen original, where the objective needs one.
            inputs: From the collator.
            step: Of training, which the random numbers of the attack on captions depend on.
        """
        batch = Batch(inputs["pixels"], inputs["pixels"], inputs["labels"])
        if self._with_classes:
            self._add_classes(batch, student)
        if self.objective.needs_captions:
            self._add_captions(batch, student, teacher, inputs["texts"], step)
        return batch

    def _add_classes(self, batch: Batch, student: RobustCLIPModel) -> None:
        names, templates = self.class_names or (), class_templates(student, self.templates)
        if self.objective.trains_class_prompts:
            self._add_prompts(batch, student, names, templates)
        elif self._class_embeds is None or self.objective.trains_text:
            self._class_embeds = embed_classes(student, self.tokenizer, names, templates)
        batch.class_embeds = self._class_embeds
        frozen = self._original_class_embeds
        batch.original_class_embeds = self._class_embeds if frozen is None else frozen
        batch.other_class_embeds = self._other_class_embeds

    def _add_prompts(
        self, batch: Batch, student: RobustCLIPModel, names: Sequence[str], templates: Sequence[str]
    ) -> None:
        """One pass of all prompts serves the attack, without its gradient, and the loss.

        Unless something is dropped out of it, which is for the loss alone.
        """
        if self._prompts is None:
            self._prompts = tokenize(self.tokenizer, fill_templates(names, templates), student.device)
        tokens = self._prompts
        # By way of `forward`, which autocast is wrapped around.
        encoded = student(compute=lambda model: pool_templates(model.encode_text(**tokens), len(names)))
        batch.prompt_ids, batch.prompt_mask = tokens["input_ids"], tokens["attention_mask"]
        batch.learning_class_embeds, self._class_embeds = encoded, encoded.detach()
        if drops_out(student.text_model):
            self._class_embeds = embed_classes(student, self.tokenizer, names, templates)

    def _add_captions(
        self,
        batch: Batch,
        student: RobustCLIPModel,
        teacher: RobustCLIPModel | None,
        texts: Sequence[str],
        step: int,
    ) -> None:
        """Each distinct caption once: prompts of one class are the same, and are encoded and attacked together."""
        device = batch.pixels.device
        distinct = list(dict.fromkeys(texts))
        tokens = tokenize(self.tokenizer, distinct, device)
        if not self._cut and tokens["input_ids"].shape[1] >= self.tokenizer.model_max_length:
            self._cut = warn_of_cut_texts(self.tokenizer, distinct, "captions of this batch") > 0
        batch.input_ids, batch.attention_mask = tokens["input_ids"], tokens["attention_mask"]
        position = {text: row for row, text in enumerate(distinct)}
        batch.text_index = torch.tensor([position[text] for text in texts], device=device)
        if self.text_attack is None:
            return
        start = time.perf_counter()
        encode, score = partial(embed_texts, student, self.tokenizer), self.objective.text_score(teacher, batch)
        found = self.text_attack(encode, distinct, seed=self.seed + (step << 32), score=score)
        attacked = tokenize(self.tokenizer, found, device)
        batch.attacked_ids, batch.attacked_mask = attacked["input_ids"], attacked["attention_mask"]
        self.text_attack_seconds += time.perf_counter() - start


def drops_out(tower: Any) -> bool:
    """Whether a pass of a tower is another in training than in evaluation: dropout of its attention or an adapter."""
    adapters = any(isinstance(module, nn.Dropout) and module.p > 0 for module in tower.modules())
    return adapters or tower.config.attention_dropout > 0
