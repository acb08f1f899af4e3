"""What the attack in training climbs, where it is not the paper's inner loss."""

from pathlib import Path
from typing import Any

import pytest
import torch

from robust_clip import PGD, AttackRun
from robust_clip.cli.sections import Sections
from tests.training.test_trainer import largest_difference, weights


def test_climbing_the_whole_loss_of_tecoa_is_climbing_its_inner_loss(make: Any, tmp_path: Path) -> None:
    trained = []
    for name, attack in (("inner", PGD(steps=2)), ("whole", AttackRun(PGD(steps=2), "objective"))):
        trainer = make(folder=tmp_path / name, attack=attack)
        trainer.train()
        trained.append(weights(trainer))
    assert largest_difference(*trained) < 1e-5


@pytest.mark.parametrize("loss", ["margin", "embedding_distance"])
def test_another_loss_gives_other_images_and_is_on_record(make: Any, loss: str) -> None:
    trainer, paper = make(attack=AttackRun(PGD(steps=2), loss)), make()
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    images = [
        each._attacked(each.model, each.batches.make(each.model, None, batch, 0), batch["index"])
        for each in (trainer, paper)
    ]
    assert not torch.equal(*images)
    assert trainer.record["attack climbs"] == loss
    assert "attack climbs" not in paper.record


def test_a_loss_for_evaluations_alone_is_refused_at_once(make: Any) -> None:
    with pytest.raises(ValueError, match="pgd-joint_divergence climbs away from attacked class prompts"):
        make(attack=AttackRun(PGD(), "joint_divergence"))


def test_a_recipe_names_the_loss() -> None:
    recipe: dict[str, Any] = {
        "objective": {"name": "tecoa"},
        "attack": {"name": "pgd", "steps": 3, "loss": "objective"},
        "model": {"name": "nano_clip"},
        "data": {"train": "digits"},
        "training": {"output_dir": "out"},
    }
    assert Sections.of(recipe).attack == AttackRun(PGD(steps=3), "objective")
