"""The model that learns, its frozen original, and what checkpoints hold of it, whatever the adaptation."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from robust_clip.adaptation import Adaptation, FullFineTuning, Prompts
from robust_clip.models import TOWERS, PromptedCLIPModel, RobustCLIPModel
from robust_clip.models.adapters import load_adapter_weights
from robust_clip.models.prompt_files import ADAPTER_FOLDER
from robust_clip.objectives import Objective


def adapt(
    model: RobustCLIPModel, adaptation: Adaptation, tokenizer: Any, data: Any, evaluated: Any = None
) -> RobustCLIPModel:
    """The model that learns what `adaptation` says, on the class names of `data` where it wants them.

    Raises:
        ValueError: As `adaptation.apply`, or if it will know nothing of a class that it is `evaluated` on.
    """
    names = getattr(data, "class_names", None) or ()
    if isinstance(adaptation, Prompts):
        model = adaptation.apply(model, tokenizer, names)
    elif isinstance(adaptation, FullFineTuning):
        model = adaptation.apply(model, tokenizer, names, getattr(data, "templates", ()))
    else:
        model = adaptation.apply(model)
    _refuse_other_classes(model, evaluated if isinstance(evaluated, dict) else {"": evaluated})
    return model


def original_of(model: RobustCLIPModel) -> RobustCLIPModel:
    """The teacher: the model before training, with what learns copied and frozen parameters shared.

    Without adapters and prompts where they are what learns, so that of the towers there is no second copy.
    """
    if isinstance(model, PromptedCLIPModel) and model.learns_prompts_alone:
        return model.as_base().eval()
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    original = copy.deepcopy(model, shared).eval().requires_grad_(False)
    if getattr(original, "peft_config", None):
        original.disable_adapters()
    return original


def load_learned(model: Any, folder: str) -> bool:
    """Loads what a checkpoint holds of a model that saves its adapter or prompts alone; false for any other model."""
    adapted = bool(getattr(model, "peft_config", None))
    prompted = isinstance(model, PromptedCLIPModel) and (adapted or model.learns_prompts_alone)
    if prompted:
        model.load_prompts(folder)
    if adapted:
        load_adapter_weights(model, Path(folder) / ADAPTER_FOLDER if prompted else folder)
    return adapted or prompted


def drop_towers(teacher: RobustCLIPModel, student: RobustCLIPModel, kept: Sequence[str]) -> None:
    """Frees the teacher's copies of towers that are not `kept`; what it shares with the student costs nothing."""
    ours = {id(parameter) for parameter in student.parameters()}
    for tower, names in TOWERS.items():
        for name in names:
            copied = any(id(parameter) not in ours for parameter in getattr(teacher, name).parameters())
            if tower not in kept and copied:
                setattr(teacher, name, torch.nn.Identity())


def default_adaptation(objective: Objective) -> FullFineTuning:
    """All of the towers that the objective trains, and the temperature where that is part of it."""
    towers = ("vision",) * objective.trains_vision + ("text",) * objective.trains_text
    return FullFineTuning(towers, logit_scale=objective.trains_logit_scale)


def _refuse_other_classes(model: RobustCLIPModel, evaluated: Mapping[str, Any]) -> None:
    """Before training, since evaluation comes after it."""
    tokens = model.config.sizes.class_tokens if isinstance(model, PromptedCLIPModel) else ()
    # Without regard to case, as CLIP's tokenizer.
    known = {name.lower() for name, _ in tokens}
    for dataset in evaluated.values():
        unknown = [name for name in getattr(dataset, "class_names", None) or () if name.lower() not in known]
        if known and unknown:
            raise ValueError(
                f"{dataset.name}/{dataset.split} has the class {unknown[0]!r}, but the model learns something for "
                f"each of {len(known)} classes and knows no other; leave that data set out of the evaluation."
            )
