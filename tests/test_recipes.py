"""Every recipe parses, and takes two steps on a tiny model and tiny data."""

from pathlib import Path
from typing import Any

import pytest

from robust_clip.cli.recipe import load_recipe
from robust_clip.cli.train import EvaluationPlan, build_trainer, construct

RECIPES = sorted(
    path for path in (Path(__file__).parents[1] / "recipes").rglob("*.yaml") if path.parent.name != "accelerate"
)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recipe_takes_two_steps(path: Path, tmp_path: Path, tiny_checkpoint: Path, coloured_folder: Path) -> None:
    recipe: dict[str, Any] = load_recipe(path)
    if recipe.get("evaluation"):
        assert construct("evaluation", EvaluationPlan, recipe["evaluation"]).protocols()
    if "scratch" in recipe["model"]:
        for tower in ("vision_config", "text_config"):
            recipe["model"]["scratch"][tower] |= {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    else:
        recipe["model"] = {"name": str(tiny_checkpoint)}
    mixture = isinstance(recipe["data"]["train"], dict)
    recipe["data"] |= {"train": {str(coloured_folder): 1} if mixture else str(coloured_folder), "root": None}
    recipe["data"].pop("classes", None)
    recipe["training"] |= {
        "output_dir": str(tmp_path),
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "dataloader_num_workers": 0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    trainer = build_trainer(recipe)
    before = trainer.model.visual_projection.weight.clone()
    trainer.train()
    assert trainer.state.global_step == 2
    # A first step of a long warm-up is too short to see; the optimiser's state shows that it was taken.
    moved = not before.equal(trainer.model.visual_projection.weight)
    assert moved or trainer.args.warmup_steps >= 1000
