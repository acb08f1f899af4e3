"""Parts of a training step that are not the Trainer's: checks, the teacher, and what a run is on record for."""

from dataclasses import asdict
from typing import Any

import datasets
import torch

from robust_clip.adaptation import Adaptation
from robust_clip.attacks import (
    Attack,
    AttackLoss,
    AttackRun,
    CrossEntropy,
    Forward,
    TextAttack,
    Victim,
    sample_generators,
)
from robust_clip.data import ImageDataset, Mixture
from robust_clip.models import TOWERS, RobustCLIPModel, ZeroShotClassifier
from robust_clip.objectives import Batch, Objective, adaptive_problem
from robust_clip.threat_model import ThreatModel, format_size, require_radius

from .arguments import AdversarialTrainingArguments
from .data_record import data_record


def as_images(dataset: Any) -> Any:
    """An `ImageDataset` around a plain `datasets.Dataset`, named as its source; `None` or what is ours, as it is.

    A dict of data sets is treated value by value.

    Raises:
        ValueError: If it is of another type.
    """
    if isinstance(dataset, datasets.Dataset):
        name, split = dataset.info.dataset_name or "unknown", str(dataset.split or "unknown")
        return ImageDataset(dataset, name=name, split=split)
    if isinstance(dataset, dict):
        return {name: as_images(inner) for name, inner in dataset.items()}
    if dataset is None or isinstance(dataset, ImageDataset | Mixture):
        return dataset
    raise ValueError(
        f"A data set must be a datasets.Dataset, an ImageDataset or a Mixture, got {type(dataset).__name__}; "
        "a streamed data set has no rows to seed an attack by: load it without streaming."
    )


def check_arguments(args: AdversarialTrainingArguments, model: RobustCLIPModel) -> None:
    """Refuses settings under which training would go wrong in silence.

    Raises:
        ValueError: If the weights are not fp32, one process would use several GPUs, or data workers are persistent.
    """
    if model.dtype != torch.float32:
        raise ValueError(f"Train fp32 weights, not {model.dtype}: load with dtype=torch.float32, and set bf16=True.")
    if args.n_gpu > 1:
        raise ValueError(
            f"One process sees {args.n_gpu} GPUs: start one for each by accelerate launch, or hide all but one."
        )
    if args.dataloader_persistent_workers:
        raise ValueError("dataloader_persistent_workers would repeat the crops of the first epoch; leave it off.")


def set_text_learning_rate(optimizer: torch.optim.Optimizer, model: Any, learning_rate: float) -> None:
    """Gives the parameters of the text tower a learning rate of their own.

    Raises:
        ValueError: If no parameter of the text tower learns.
    """
    text = {id(p) for part in TOWERS["text"] for p in getattr(model, part).parameters()}
    groups = [(group, [p for p in group["params"] if id(p) in text]) for group in list(optimizer.param_groups)]
    if not any(mine for _, mine in groups):
        raise ValueError("text_learning_rate is set, but no parameter of the text tower learns; leave it out.")
    for group, mine in groups:
        if mine:
            group["params"] = [p for p in group["params"] if id(p) not in text]
            optimizer.add_param_group({**group, "params": mine, "lr": learning_rate})


def split_run(attack: Attack | AttackRun | None) -> tuple[Attack | None, AttackRun | None]:
    """The search, and the run that says what it climbs in place of the paper's inner loss.

    Raises:
        ValueError: If that is a loss which evaluations alone can climb.
    """
    if not isinstance(attack, AttackRun):
        return attack, None
    if attack.loss == "joint_divergence":
        raise ValueError(f"{attack} climbs away from attacked class prompts, and training has none; use objective")
    return attack.attack, attack


def inner_problem(
    objective: Objective, run: AttackRun | None, student: Any, teacher: RobustCLIPModel | None, batch: Batch
) -> tuple[Forward, AttackLoss]:
    """What the attack in training sees and climbs: the paper's inner loss, or the one that `run` names."""
    if run is None:
        return objective.inner_problem(student, teacher, batch)
    if batch.class_embeds is None:
        raise ValueError(f"an attack on {run.loss} needs class embeddings; this data set has no classes")
    classifier = ZeroShotClassifier(student, batch.class_embeds.detach())
    victim = Victim(
        classifier, classifier.embed, lambda pixels, labels: adaptive_problem(objective, student, teacher, batch)
    )
    return run.aim(victim, batch.pixels, batch.labels)


def refuse_sharded_weights(is_fsdp_enabled: bool) -> None:
    """Refuses FSDP.

    Raises:
        ValueError: If it is on.
    """
    if is_fsdp_enabled:
        raise ValueError(
            "FSDP is not supported: class embeddings and evaluation need whole weights. Use DDP "
            "(accelerate launch --multi_gpu) or DeepSpeed ZeRO-2."
        )


def zero_loss(model: RobustCLIPModel) -> torch.Tensor:
    """A loss of 0 with a gradient of 0 for every parameter that learns."""
    return torch.stack([parameter.sum() for parameter in model.parameters() if parameter.requires_grad]).sum() * 0.0


def check_compatible(
    objective: Objective,
    attack: Attack | None,
    threat_model: ThreatModel | None,
    text_attack: TextAttack | None,
    adaptation: Adaptation,
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
    if objective.needs_text_attack != (text_attack is not None):
        if text_attack is None:
            raise ValueError(f"{name} trains on attacked captions: give a text attack, such as WordList().")
        raise ValueError(f"{name} has no use for a text attack; leave out text_attack.")
    for tower, trained in (("vision", objective.trains_vision), ("text", objective.trains_text)):
        if trained and tower not in adaptation.towers:
            raise ValueError(
                f"{name} trains the {tower} tower, but the adaptation trains only {list(adaptation.towers)}."
            )
        if not trained and tower in adaptation.towers:
            raise ValueError(f"{name} keeps the {tower} tower frozen; take {tower} out of adaptation.towers.")
    if getattr(adaptation, "class_residuals", False) and (objective.needs_text_attack or objective.needs_captions):
        raise ValueError(
            f"{name} trains on texts that are no class prompts, and class_residuals know nothing else; leave them out."
        )
    if objective.needs_random_start and getattr(attack, "random_start", True) is False:
        raise ValueError(f"What {name}'s attack climbs is flat at the clean image: set random_start of the attack.")
    if attack is not None and threat_model is not None:
        require_radius(threat_model)
        # Sizes that do not fit each other show on a single grey image.
        pixels = torch.full((1, 3, 2, 2), 0.5)
        loss = CrossEntropy(torch.tensor([0]))
        attack(lambda x: x.flatten(1), pixels, loss, threat_model, sample_generators(0, [0]))
    if train_dataset is None:
        return
    if objective.needs_classes and (isinstance(train_dataset, Mixture) or train_dataset.class_names is None):
        raise ValueError(f"{name} needs one data set with class labels, got {type(train_dataset).__name__}.")
    if objective.needs_classes and len(train_dataset.class_names) < 2:
        raise ValueError(f"{name} tells classes apart, but the data has only {list(train_dataset.class_names)}.")


def training_record(
    objective: Objective,
    attack: Attack | AttackRun | None,
    threat_model: ThreatModel | None,
    text_attack: TextAttack | None,
    adaptation: Adaptation,
    train_dataset: Any,
) -> dict[str, Any]:
    """What the config and the card say of a run, in the types of JSON."""
    record: dict[str, Any] = {"objective": type(objective).__name__, "paper": objective.paper.url}
    record |= {f"objective {key}": value for key, value in asdict(objective).items()}  # type: ignore[call-overload]
    tuned: Any = asdict(adaptation)  # type: ignore[call-overload]
    record |= {"adaptation": type(adaptation).__name__, "trains towers": list(adaptation.towers)}
    record |= {f"trains {key}": value for key, value in tuned.items()}
    if isinstance(attack, AttackRun):
        record |= {"attack climbs": attack.loss}
        attack = attack.attack
    if attack is not None and threat_model is not None:
        parameters = {
            key: format_size(value) if key == "step_size" and value else value
            for key, value in asdict(attack).items()  # type: ignore[call-overload]
        }
        record |= {"attack": type(attack).__name__, "attack parameters": parameters, "threat model": str(threat_model)}
    if text_attack is not None:
        record |= {"text attack": type(text_attack).__name__, "text attack parameters": text_attack.parameters()}
    if train_dataset is not None:
        record |= data_record(train_dataset)
    return record
