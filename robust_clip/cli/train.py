"""`robust-clip train`: runs a recipe."""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CLIPProcessor

from robust_clip.adaptation import ADAPTATIONS
from robust_clip.attacks import ATTACKS
from robust_clip.data import DataSource, ImageDataset, Mixture
from robust_clip.models import RobustCLIPModel
from robust_clip.models.scratch import build_clip
from robust_clip.objectives import OBJECTIVES
from robust_clip.threat_model import ThreatModel
from robust_clip.training import AdversarialTrainer, AdversarialTrainingArguments

from .recipe import choose, construct, load_recipe


@dataclass(frozen=True)
class ModelSource:
    """The `model` section: a checkpoint to start from, or the sizes of a new one.

    Args:
        name: Hub id or path of a CLIP checkpoint.
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
        model = RobustCLIPModel.from_pretrained(self.name, revision=self.revision)
        return model, CLIPProcessor.from_pretrained(self.name, revision=self.revision)


def run(args: argparse.Namespace) -> int:
    """Trains as the recipe says."""
    recipe = load_recipe(args.recipe, args.overrides)
    trainer = build_trainer(recipe)
    trainer.train(resume_from_checkpoint=args.resume)
    trainer.save_model()
    trainer.save_state()
    return 0


def build_trainer(recipe: dict[str, dict[str, Any]]) -> AdversarialTrainer:
    """Every section through its constructor, cheap ones first, so that a mistake is answered at once."""
    objective = choose("objective", OBJECTIVES, recipe.get("objective", {}))
    attack = choose("attack", ATTACKS, recipe["attack"]) if recipe.get("attack") else None
    threat_model = construct("threat_model", ThreatModel, recipe["threat_model"]) if attack else None
    adaptation = choose("adaptation", ADAPTATIONS, recipe["adaptation"]) if recipe.get("adaptation") else None
    source = construct("data", DataSource, recipe.get("data", {}))
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
