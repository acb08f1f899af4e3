"""Every recipe parses, and takes two steps on a tiny model and tiny data."""

from pathlib import Path
from typing import Any

import pytest
import torch

from robust_clip.cli.recipe import load_recipe
from robust_clip.cli.sections import Sections
from robust_clip.cli.study_plan import StudyPlan
from robust_clip.cli.train import build_trainer
from toy_bert import save_tiny_bert

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name not in ("accelerate", "compare"))
STUDIES = sorted((FOLDER / "compare").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recipe_takes_two_steps(path: Path, tmp_path: Path, tiny_checkpoint: Path, coloured_folder: Path) -> None:
    recipe: dict[str, Any] = load_recipe(path)
    Sections.of(recipe)
    recipe.pop("evaluation", None)
    if "scratch" in recipe["model"]:
        for tower in ("vision_config", "text_config"):
            recipe["model"]["scratch"][tower] |= {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    else:
        recipe["model"] = {"name": str(tiny_checkpoint)}
    text_attack = recipe.get("attack", {}).get("text")
    if text_attack and text_attack["name"] == "bert_attack":
        text_attack["masked_lm"] = save_tiny_bert(tmp_path / "bert")
    if recipe.get("adaptation", {}).get("name") == "prompts":
        # As large as 16 pixels and two layers allow.
        sizes = {"frame": 3, "depth": 2}
        recipe["adaptation"] |= {name: size for name, size in sizes.items() if name in recipe["adaptation"]}
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
    changed = {name for name, weight in trainer.model.named_parameters() if not before[name].equal(weight)}
    assert changed
    assert changed <= learning


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_is_one(path: Path) -> None:
    """Every recipe in it goes through the constructors."""
    plan = StudyPlan.read(path)
    for method in plan.methods:
        assert len({run.folder for run in plan.grid(method)}) == len(plan.learning_rates_of(method))


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
