"""Parts of a training step that are not the Trainer's: checks, the teacher, and what a run is on record for."""

import copy
from dataclasses import asdict
from typing import Any

import datasets

from robust_clip.adaptation import FullFineTuning
from robust_clip.attacks import Attack
from robust_clip.data import ImageDataset, Mixture
from robust_clip.models import RobustCLIPModel
from robust_clip.objectives import Objective
from robust_clip.threat_model import ThreatModel, format_size


def as_images(dataset: Any) -> Any:
    """An `ImageDataset` around a plain `datasets.Dataset`; anything else as it is."""
    return ImageDataset(dataset) if isinstance(dataset, datasets.Dataset) else dataset


def frozen_copy(model: RobustCLIPModel) -> RobustCLIPModel:
    """The teacher: what learns is copied, frozen parameters are shared with the student."""
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    return copy.deepcopy(model, shared).eval().requires_grad_(False)


def check_compatible(
    objective: Objective,
    attack: Attack | None,
    threat_model: ThreatModel | None,
    adaptation: FullFineTuning,
    train_dataset: Any,
) -> None:
    """Refuses parts that do not go together.

    Raises:
        ValueError: If the objective needs an attack and none is given, or the other way round; if it trains text and
            the adaptation freezes the text tower; or if the data lacks what the objective needs.
    """
    name = type(objective).__name__
    if (attack is None) != (threat_model is None):
        raise ValueError("An attack needs a threat model and a threat model an attack; only one was given.")
    if objective.needs_attack and attack is None:
        raise ValueError(f"{name} trains on adversarial images: give an attack and a threat model.")
    if not objective.needs_attack and attack is not None:
        raise ValueError(f"{name} has no use for an attack; leave out attack and threat_model.")
    if objective.trains_text and "text" not in adaptation.towers:
        raise ValueError(f"{name} trains the text tower, but the adaptation trains only {list(adaptation.towers)}.")
    if not objective.trains_text and "text" in adaptation.towers:
        raise ValueError(f"{name} keeps class embeddings of a frozen text tower; take text out of adaptation.towers.")
    if train_dataset is None:
        return
    if objective.needs_classes and (isinstance(train_dataset, Mixture) or train_dataset.class_names is None):
        raise ValueError(f"{name} needs one data set with class labels, got {type(train_dataset).__name__}.")


def training_record(
    objective: Objective,
    attack: Attack | None,
    threat_model: ThreatModel | None,
    adaptation: FullFineTuning,
    train_dataset: Any,
) -> dict[str, Any]:
    """What the config and the card say of a run, in the types of JSON."""
    record: dict[str, Any] = {"objective": type(objective).__name__, "paper": objective.paper.url}
    record |= {f"objective {key}": value for key, value in asdict(objective).items()}  # type: ignore[call-overload]
    record |= {f"trains {key}": value for key, value in asdict(adaptation).items()}
    if attack is not None and threat_model is not None:
        parameters = {
            key: format_size(value) if key == "step_size" and value else value
            for key, value in asdict(attack).items()  # type: ignore[call-overload]
        }
        record |= {"attack": type(attack).__name__, "attack parameters": parameters, "threat model": str(threat_model)}
    if train_dataset is not None:
        sources = train_dataset.sources if isinstance(train_dataset, Mixture) else [train_dataset]
        record["data"] = ", ".join(f"{source.name}/{source.split}" for source in sources)
    return record
