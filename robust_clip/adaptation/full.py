"""Full fine-tuning: which towers learn, and how much of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from robust_clip.models import TOWERS, PromptedCLIPModel, PromptSizes, RobustCLIPModel, fill_templates

from .base import check_towers

# What of a tower comes after its blocks, and learns with the last of them.
_HEADS = {
    "vision": ("vision_model.post_layernorm.", "visual_projection."),
    "text": ("text_model.final_layer_norm.", "text_projection."),
}
_BLOCK = re.compile(r"(vision|text)_model\.encoder\.layers\.(\d+)\.")


@dataclass(frozen=True)
class FullFineTuning:
    """Every parameter of the named towers learns, with its projection; all else is frozen.

    Args:
        towers: `vision`, `text`, or both. TeCoA and its successors train the vision tower.
        logit_scale: Whether the temperature learns; TeCoA's code keeps it constant.
        last_layers: For each tower named here how many of its last blocks learn, with what follows them, instead of
            the whole tower, as TeCoA's study of trained parameters does by part
            (https://huggingface.co/papers/2212.07016, section 4.3); its code counts weight tensors from the end of the
            tower, without the projection. 0 leaves the projection and the norm before it.
        class_residuals: Leave the text tower frozen, and let a vector learn in its place that is added to the
            embedding of each class, from 0 on: `ClassResiduals`. What comes of it knows the classes and templates of
            the training data alone.

    Raises:
        ValueError: On an unknown tower or none, a number of layers that is no count, or residuals with a text tower
            that learns or is not named. `apply` refuses more layers than the tower has.
    """

    towers: Sequence[str] = ("vision",)
    logit_scale: bool = False
    last_layers: Mapping[str, int] = field(default_factory=dict)
    class_residuals: bool = False

    def __post_init__(self) -> None:
        check_towers(self.towers)
        for tower, count in self.last_layers.items():
            if tower not in self.towers:
                raise ValueError(f"last_layers names {tower!r}, which is none of the towers {list(self.towers)}.")
            if not isinstance(count, int) or count < 0:
                raise ValueError(f"last_layers.{tower} must be 0 or a positive integer, got {count!r}.")
        if self.class_residuals and "text" not in self.towers:
            raise ValueError(f"class_residuals belong to the text side: name text, too, in towers, {self.towers!r}.")
        if self.class_residuals and "text" in self.last_layers:
            raise ValueError("class_residuals stand beside a frozen text tower; leave out last_layers.text.")

    def apply(
        self,
        model: RobustCLIPModel,
        tokenizer: Any = None,
        class_names: Sequence[str] = (),
        templates: Sequence[str] = (),
    ) -> RobustCLIPModel:
        """Sets `requires_grad` of every parameter of `model` and returns it, or with residuals one around its weights.

        A model that comes with residuals for these classes and templates goes on with them.

        Args:
            model: Any; for residuals a plain one, or one with the same.
            tokenizer: Its tokenizer; needed for residuals, as are the next two.
            class_names: Of the training data.
            templates: Of the training data.

        Raises:
            ValueError: If a tower has fewer blocks than should learn, the model has other residuals or prompts, or
                what residuals need is missing.
        """
        if self.class_residuals:
            model = _with_residuals(model, tokenizer, class_names, templates)
        firsts = {tower: self._first_block(model, tower) for tower in self.last_layers}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self._learns(name, firsts))
        return model

    def _learns(self, name: str, firsts: Mapping[str, int]) -> bool:
        if name == "logit_scale":
            return self.logit_scale
        for tower in self.towers:
            if name.partition(".")[0] not in TOWERS[tower]:
                continue
            if tower == "text" and self.class_residuals:
                return name.startswith("text_model.class_residuals.")
            block = _BLOCK.match(name)
            if tower not in firsts or name.startswith(_HEADS[tower]):
                return True
            return block is not None and int(block[2]) >= firsts[tower]
        return False

    def _first_block(self, model: RobustCLIPModel, tower: str) -> int:
        blocks = len(getattr(model, f"{tower}_model").encoder.layers)
        if self.last_layers[tower] > blocks:
            raise ValueError(
                f"last_layers.{tower} is {self.last_layers[tower]}, but the {tower} tower has {blocks} blocks; "
                "leave it out to train all of them with the embeddings."
            )
        return blocks - self.last_layers[tower]


def _with_residuals(
    model: RobustCLIPModel, tokenizer: Any, class_names: Sequence[str], templates: Sequence[str]
) -> PromptedCLIPModel:
    if tokenizer is None or not class_names or not templates:
        raise ValueError("class_residuals need tokenizer, class names and templates; give all three to apply.")
    # Cut as a prompt is that is too long for the tower, and without start and end.
    prompts = {
        name: [tokenizer(text, truncation=True)["input_ids"][1:-1] for text in fill_templates([name], templates)]
        for name in class_names
    }
    sizes = PromptSizes(class_tokens=list(prompts.items()), class_residuals=True)
    if not isinstance(model, PromptedCLIPModel):
        return PromptedCLIPModel.around(model, sizes)
    if model.config.sizes != sizes:
        raise ValueError(
            "The model has prompts, or residuals for other classes or templates; train those on with the data that "
            "they were made for, or begin from the base."
        )
    return model
