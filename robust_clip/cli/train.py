"""`robust-clip train`: runs a recipe."""

import argparse
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import set_seed

from robust_clip.data import ImageDataset, Mixture
from robust_clip.evaluation import checkpoint_revision, evaluate_robustness
from robust_clip.evaluation.records import write_text
from robust_clip.models import fill_templates, load_checkpoint, packaged_checkpoint, require_checkpoint
from robust_clip.training import AdversarialTrainer
from robust_clip.training.resume import claim_output_dir, is_finished

from .card import changes_between
from .evaluate import format_table
from .recipe import load_recipe
from .sections import EvaluationPlan, Sections

# Where things lie, how quickly, and what is kept and told meanwhile.
_MOVES_NOTHING = (
    r"(data|evaluation\.datasets\.[^.]+)\.root:|training\.(output_dir|disable_tqdm|report_to|push_to_hub|hub_\w+|"
    r"dataloader_(num_workers|pin_memory|prefetch_factor)|logging_\w+|save_total_limit|per_device_eval_batch_size):"
)
_COMES_LATER = r"|evaluation[.:]"


def run(args: argparse.Namespace) -> int:
    """Trains as the recipe says, unless that is done, and says where the model lies and how to measure it."""
    recipe = load_recipe(args.recipe, args.overrides)
    sections = Sections.of(recipe)
    folder = Path(sections.training.output_dir or ".")
    done = args.resume and is_finished(folder) and (folder / "recipe.yaml").is_file()
    if done:
        _require_same(recipe, folder, "a finished run", _MOVES_NOTHING)
        # What it learned from, captions or prompts, is not read again for the sake of advice.
        command = "" if sections.objective.needs_captions else _measuring_command(sections, folder, captioned=False)
    else:
        command = _measuring_command(sections, folder, captioned=_train(sections, recipe, args.resume))
    if sections.training.process_index == 0:
        told = f"{folder} holds this run to its end: nothing is left to do." if done else f"Wrote {folder}."
        sys.stdout.write(told + (f" Measure the model, such as by: {command}\n" if command else "\n"))
    return 0


def train_recipe(recipe: dict[str, dict[str, Any]], resume: bool) -> None:
    """Trains as a recipe says, then measures if it has an evaluation section.

    Args:
        recipe: As `load_recipe` gives it.
        resume: Whether to go on from the last checkpoint in `training.output_dir`.

    Raises:
        ValueError: If the recipe is wrong, its model is not there, or the directory is taken.
    """
    _train(Sections.of(recipe), recipe, resume)


def _train(sections: Sections, recipe: dict[str, dict[str, Any]], resume: bool) -> bool:
    """Whether it learned from captions."""
    if sections.model.name:
        require_checkpoint(sections.model.name, revision=sections.model.revision)
    output_dir = Path(sections.training.output_dir or ".")
    checkpoint = claim_output_dir(output_dir, resume)
    if checkpoint and (output_dir / "recipe.yaml").is_file():
        _require_same(recipe, output_dir, "the checkpoints of an unfinished run", _MOVES_NOTHING + _COMES_LATER)
    trainer = build_trainer(sections)
    if trainer.is_world_process_zero():
        write_text(output_dir / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False))
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    if sections.evaluation:
        _measure(trainer, sections, sections.evaluation)
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    # Its file says that the run is finished, so it comes last.
    trainer.save_state()
    return any(source.captions for source in _sources(trainer.train_dataset))


def _require_same(recipe: dict[str, dict[str, Any]], folder: Path, what: str, open_to_change: str) -> None:
    """Refuse to take a run for that of another recipe, but for changes that begin as an expression says."""
    changes = changes_between(load_recipe(folder / "recipe.yaml"), recipe)
    different = [change for change in changes if not re.match(open_to_change, change)]
    if different:
        raise ValueError(
            f"{folder} holds {what} of another recipe, and nothing goes on from that: this one has "
            f"{'; '.join(different)}. Choose another training.output_dir, or remove it."
        )


def _measuring_command(sections: Sections, folder: Path, captioned: bool) -> str:
    """Measures the model on the test split of what it was trained on, under what it was trained against.

    Empty for a model that knows certain classes alone, and for one of a mixture of data sets.
    """
    known = getattr(sections.adaptation, "per_class", False) or getattr(sections.adaptation, "class_residuals", False)
    data, threat_model = sections.data, sections.threat_model
    if known or not isinstance(data.name, str):
        return ""
    words = ["robust-clip", "retrieve" if captioned else "evaluate", "--model", str(folder)]
    words += ["--datasets", data.name]
    words += ["--root", data.root] if data.root else []
    words += ["--attack", "image" if threat_model else "none"] if captioned else ["--protocol", "pgd20"]
    if threat_model is not None:
        norm, size = str(threat_model).split()
        words += (["--norm", norm] if norm != "linf" else []) + ["--epsilon", size]
    return shlex.join([*words, "--records", str(folder / "records")])


def build_trainer(sections: Sections) -> AdversarialTrainer:
    """Loads the data, then the model, and puts all together."""
    train_dataset, eval_datasets = sections.load_data()
    # The weights of a new model are drawn before the Trainer sets its seed.
    set_seed(sections.training.seed)
    model, processor = sections.model.load(_texts(train_dataset))
    return AdversarialTrainer(
        model,
        sections.training,
        objective=sections.objective,
        attack=sections.attack,
        threat_model=sections.threat_model,
        text_attack=sections.text_attack,
        adaptation=sections.adaptation,
        train_dataset=train_dataset,
        eval_dataset=eval_datasets or None,
        processing_class=processor,
        data_collator=sections.data.collator(model.image_size, sections.training.seed),
    )


def _measure(trainer: AdversarialTrainer, sections: Sections, plan: EvaluationPlan) -> None:
    """Evaluates before and after, prints both tables, and renders the card again with the rows of the result."""
    output_dir = Path(trainer.args.output_dir or ".")
    trained = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    runs: list[tuple[str, Any, dict[str, Any]]] = [("robust", trained, {"model_id": output_dir.resolve().name})]
    if plan.undefended and sections.model.name:
        before: Any = load_checkpoint(sections.model.name, sections.model.revision)[0]
        revision = checkpoint_revision(packaged_checkpoint(sections.model.name), before)
        runs.insert(0, ("undefended", before.to(trainer.args.device), {"revision": revision}))
    datasets: Any = trainer.eval_dataset
    for name, model, identity in runs:
        rows = [
            evaluate_robustness(
                model,
                trainer.processing_class.tokenizer,
                dataset,
                protocol,
                seed=plan.seed,
                batch_size=trainer.args.per_device_eval_batch_size,
                records_dir=output_dir / "records" / name,
                resume=True,
                on_bad_image=sections.data.on_bad_image,
                **identity,
            )
            for dataset in datasets.values()
            for protocol in plan.protocols()
        ]
        if trainer.is_world_process_zero():
            sys.stdout.write(f"\n{name}: {format_table(rows)}\n")
    trainer.rows = rows
    trainer.create_model_card()


def _sources(data: Any) -> Sequence[ImageDataset]:
    return data.sources if isinstance(data, Mixture) else [data]


def _texts(data: ImageDataset | Mixture) -> Iterable[str]:
    for source in _sources(data):
        if source.captions:
            yield from (caption for captions in source.captions for caption in captions)
        else:
            yield from fill_templates(source.class_names or (), source.templates)


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("train", help="train as a recipe says", description=__doc__)
    parser.add_argument("recipe", type=Path, help="YAML file with the sections of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in training.output_dir")
    parser.set_defaults(run=run, takes_overrides=True)
