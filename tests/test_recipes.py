"""Every recipe parses, and takes two steps on a tiny model and tiny data."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPProcessor

from robust_clip.cli.recipe import load_recipe
from robust_clip.cli.sections import ModelSource, Sections
from robust_clip.cli.study_plan import StudyPlan
from robust_clip.cli.train import build_trainer
from toy_bert import save_tiny_bert

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name not in ("accelerate", "compare"))
STUDIES = sorted((FOLDER / "compare").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recipe_takes_two_steps(path: Path, tmp_path: Path, tiny_checkpoint: Path, coloured_folder: Path) -> None:
    take_two_steps(load_recipe(path), tmp_path, tiny_checkpoint, coloured_folder)


@pytest.mark.parametrize(
    ("path", "method"),
    [(path, method) for path in STUDIES for method in StudyPlan.read(path).methods],
    ids=lambda each: each.stem if isinstance(each, Path) else each,
)
def test_method_of_a_study_takes_two_steps(
    path: Path, method: str, tmp_path: Path, tiny_checkpoint: Path, coloured_folder: Path
) -> None:
    run = next(StudyPlan.read(path).grid(method))
    take_two_steps(run.recipe, tmp_path, tiny_checkpoint, coloured_folder)


def take_two_steps(recipe: dict[str, Any], tmp_path: Path, tiny_checkpoint: Path, coloured_folder: Path) -> None:
    """On a tiny model and tiny data, with the recipe's parts and not its sizes."""
    Sections.of(recipe)
    recipe.pop("evaluation", None)
    if "scratch" in recipe["model"]:
        for tower in ("vision_config", "text_config"):
            recipe["model"]["scratch"][tower] |= {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    else:
        recipe["model"] |= {"name": str(tiny_checkpoint)}
    text_attack = recipe.get("attack", {}).get("text")
    if text_attack and text_attack["name"] == "bert_attack":
        text_attack["masked_lm"] = save_tiny_bert(tmp_path / "bert")
    if recipe.get("adaptation", {}).get("name") == "prompts":
        # As large as 16 pixels and two layers allow.
        sizes = {"frame": 3, "depth": 2}
        recipe["adaptation"] |= {name: size for name, size in sizes.items() if name in recipe["adaptation"]}
    if layers := recipe.get("adaptation", {}).get("last_layers"):
        recipe["adaptation"] |= {"last_layers": {tower: min(2, count) for tower, count in layers.items()}}
    if "per_class" in recipe["data"]:
        recipe["data"] |= {"per_class": min(4, recipe["data"]["per_class"])}
    mixture = isinstance(recipe["data"]["train"], dict)
    recipe["data"] |= {"train": {str(coloured_folder): 1} if mixture else str(coloured_folder), "root": None}
    recipe["data"].pop("classes", None)
    recipe["training"] |= {
        "output_dir": str(tmp_path),
        "max_steps": 2,
        "warmup_steps": 0,
        "per_device_train_batch_size": 8,
        "dataloader_num_workers": 0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    trainer = build_trainer(Sections.of(recipe))
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    learning = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    trainer.train()
    assert trainer.state.global_step == 2
    if "momentum" in (settings := recipe["training"].get("optim_args") or ""):
        # A version of transformers that passes the settings of SGD over would take steps a tenth as long.
        assert {f"momentum={group['momentum']}" for group in trainer.optimizer.param_groups} == {settings}
    changed = {name for name, weight in trainer.model.named_parameters() if not before[name].equal(weight)}
    assert changed
    assert changed <= learning


def test_every_recipe_is_in_the_index() -> None:
    index = (FOLDER / "README.md").read_text()
    assert not [path for path in RECIPES + STUDIES if f"({path.relative_to(FOLDER)})" not in index]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_is_one(path: Path) -> None:
    """Every recipe in it goes through the constructors."""
    plan = StudyPlan.read(path)
    for method in plan.methods:
        assert len({run.folder for run in plan.grid(method)}) == len(plan.learning_rates_of(method))


def test_a_recipe_may_normalise_pixels_otherwise(tiny_checkpoint: Path, tmp_path: Path) -> None:
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 0.125]
    model, processor = ModelSource(str(tiny_checkpoint), image_mean=mean, image_std=std).load([])
    pixels = torch.rand(2, 3, 16, 16)
    expected = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(model.preprocess(pixels), expected)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    stock = CLIPProcessor.from_pretrained(tmp_path).image_processor
    assert (list(stock.image_mean), list(stock.image_std)) == (mean, std)
    for wrong in ([1.0, 1.0], [1.0, 1.0, 0.0]):
        with pytest.raises(ValueError, match="image_std is three numbers, one for each channel"):
            ModelSource(str(tiny_checkpoint), image_std=wrong)


def test_a_new_model_is_drawn_by_the_seed(tmp_path: Path, coloured_folder: Path) -> None:
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    scratch = {"vision_config": tower | {"image_size": 16, "patch_size": 8}, "text_config": tower}

    def weights(seed: int) -> torch.Tensor:
        training = {"output_dir": str(tmp_path), "report_to": "none", "seed": seed}
        recipe = {"model": {"scratch": scratch}, "objective": {"name": "contrastive"}, "training": training}
        trainer = build_trainer(Sections.of(recipe | {"data": {"train": str(coloured_folder)}}))
        return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])

    assert weights(3).equal(weights(3))
    assert not weights(3).equal(weights(4))
