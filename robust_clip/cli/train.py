"""`robust-clip train`: runs a recipe."""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import CLIPProcessor

from robust_clip.adaptation import ADAPTATIONS
from robust_clip.attacks import ATTACKS
from robust_clip.data import DataSource, ImageDataset, Mixture
from robust_clip.evaluation import Protocol, evaluate_robustness, get_protocol
from robust_clip.models import RobustCLIPModel, load_checkpoint
from robust_clip.models.scratch import build_clip
from robust_clip.objectives import OBJECTIVES
from robust_clip.threat_model import ThreatModel
from robust_clip.training import AdversarialTrainer, AdversarialTrainingArguments
from robust_clip.training.resume import claim_output_dir

from .evaluate import format_table
from .recipe import choose, construct, load_recipe


@dataclass(frozen=True)
class ModelSource:
    """The `model` section: a checkpoint to start from, or the sizes of a new one.

    Args:
        name: Hub id or path of a CLIP checkpoint, or `nano_clip`, which comes with the package.
        revision: Branch, tag or commit on the Hub.
        scratch: Arguments of `build_clip`, in place of `name`.
    """

    name: str | None = None
    revision: str = "main"
    scratch: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if (self.name is None) == (self.scratch is None):
            raise ValueError("Section model needs either name (a checkpoint) or scratch (sizes of a new model).")

    def load(self, texts: Iterable[str]) -> tuple[RobustCLIPModel, CLIPProcessor]:
        """The model and its processor; `texts` fit the tokenizer of a new model."""
        if self.scratch is not None:
            return build_clip(texts, **self.scratch)
        return load_checkpoint(str(self.name), self.revision)


@dataclass(frozen=True)
class EvaluationPlan:
    """The `evaluation` section: what is measured after training, on the checkpoint before and after.

    Args:
        datasets: Name in the records to fields of `DataSource`; without a `name` that of the training data.
        protocol: Name of a protocol.
        epsilons: Radii, each measured on its own; by default the protocol's.
        samples: Images of each data set; all by default.
        seed: Of the choice of images and of random starts.
        batch_size: Images attacked at once.
        undefended: Whether the checkpoint before training is measured too.
    """

    datasets: Mapping[str, Mapping[str, Any]]
    protocol: str = "pgd20"
    epsilons: Sequence[float | str] = ()
    samples: int | None = None
    seed: int = 0
    batch_size: int = 64
    undefended: bool = True

    def protocols(self) -> list[Protocol]:
        """One protocol for each epsilon."""
        return [get_protocol(self.protocol, epsilon=e, samples=self.samples) for e in self.epsilons] or [
            get_protocol(self.protocol, samples=self.samples)
        ]

    def load(self, training: Mapping[str, Any]) -> list[ImageDataset]:
        """The data sets, under the names that records give them; `training` is the recipe's `data` section."""
        same = {"name": training.get("train"), "root": training.get("root"), "split": "test"}
        loaded = []
        for name, fields in self.datasets.items():
            data = construct(f"evaluation.datasets.{name}", DataSource, same | dict(fields)).load()
            if isinstance(data, Mixture):
                raise ValueError(f"evaluation.datasets.{name} must be one data set, not a mixture.")
            data.name = name
            loaded.append(data)
        return loaded


def run(args: argparse.Namespace) -> int:
    """Trains as the recipe says, then measures if it has an evaluation section."""
    recipe = load_recipe(args.recipe, args.overrides)
    plan = construct("evaluation", EvaluationPlan, recipe["evaluation"]) if recipe.get("evaluation") else None
    protocols, datasets = (plan.protocols(), plan.load(recipe.get("data", {}))) if plan else ([], [])
    trainer = build_trainer(recipe)
    output_dir = Path(trainer.args.output_dir or ".")
    checkpoint = claim_output_dir(output_dir, args.resume)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    if trainer.is_world_process_zero():
        (output_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    if plan:
        _measure(trainer, plan, output_dir, [(dataset, protocol) for dataset in datasets for protocol in protocols])
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    # Its file says that the run is finished, so it comes last.
    trainer.save_state()
    return 0


def _measure(
    trainer: AdversarialTrainer, plan: EvaluationPlan, output_dir: Path, runs: list[tuple[ImageDataset, Protocol]]
) -> None:
    """Evaluates before and after, prints both tables, and renders the card again with the rows of the result."""
    models = {"robust": trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)}
    if plan.undefended and trainer.base_model:
        undefended: Any = RobustCLIPModel.from_pretrained(trainer.base_model, dtype=torch.float32)
        models = {"undefended": undefended.to(trainer.args.device)} | models
    for name, model in models.items():
        rows = [
            evaluate_robustness(
                model,
                trainer.processing_class.tokenizer,
                dataset,
                protocol,
                seed=plan.seed,
                batch_size=plan.batch_size,
                records_dir=output_dir / "records" / name,
                resume=True,
            )
            for dataset, protocol in runs
        ]
        if trainer.is_world_process_zero():
            sys.stdout.write(f"\n{name}: {format_table(rows)}\n")
    trainer.rows = rows
    trainer.create_model_card()


def build_trainer(recipe: dict[str, dict[str, Any]]) -> AdversarialTrainer:
    """Every section through its constructor, cheap ones first, so that a mistake is answered at once."""
    objective = choose("objective", OBJECTIVES, recipe.get("objective", {}))
    attack = choose("attack", ATTACKS, recipe["attack"]) if recipe.get("attack") else None
    threat_model = construct("threat_model", ThreatModel, recipe["threat_model"]) if attack else None
    adaptation = choose("adaptation", ADAPTATIONS, recipe["adaptation"]) if recipe.get("adaptation") else None
    source = construct("data", DataSource, recipe.get("data", {}), renamed={"train": "name"})
    model_source = construct("model", ModelSource, recipe.get("model", {}))
    arguments = construct("training", AdversarialTrainingArguments, recipe.get("training", {}))
    data = source.load()
    model, processor = model_source.load(_texts(data))
    return AdversarialTrainer(
        model,
        arguments,
        objective=objective,
        attack=attack,
        threat_model=threat_model,
        adaptation=adaptation,
        train_dataset=data,
        processing_class=processor,
        data_collator=source.collator(model.image_size, arguments.seed),
    )


def _texts(data: ImageDataset | Mixture) -> Iterable[str]:
    for source in data.sources if isinstance(data, Mixture) else [data]:
        if source.text_column:
            yield from source.rows[source.text_column]
        else:
            yield from (t.replace("{}", name) for name in source.class_names or () for t in source.templates)


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("train", help="train as a recipe says", description=__doc__)
    parser.add_argument("recipe", type=Path, help="YAML file with the sections of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in training.output_dir")
    parser.set_defaults(run=run, takes_overrides=True)
