"""Training residuals of class embeddings by TIMA: what moves, at which rate, and that it comes back."""

from typing import Any

import pytest
import torch
from datasets import ClassLabel

from robust_clip import APT, TIMA, RobustCLIPModel
from robust_clip.adaptation import FullFineTuning, Prompts
from robust_clip.data import ImageDataset
from robust_clip.evaluation import evaluate_robustness, get_protocol
from robust_clip.models import PromptedCLIPModel, embed_classes, load_checkpoint
from robust_clip.objectives.tima import hyperspherical_energy
from tests.conftest import coloured_rows

NAMES, TEMPLATES = ["red", "green", "blue"], ["This is a photo of a {}"]
RESIDUAL = "text_model.class_residuals.vectors"
JOINT = FullFineTuning(["vision", "text"], class_residuals=True)
TEXT = FullFineTuning(["text"], class_residuals=True)


def changed_by(trainer: Any) -> set[str]:
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    return {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])}


def other_classes() -> ImageDataset:
    labels = ClassLabel(names=["Red", "green", "yellow"])
    return ImageDataset(coloured_rows(6).cast_column("label", labels), name="other", split="test")


def test_the_joint_stage_moves_residuals_and_image_tower_and_all_comes_back(make: Any, tmp_path: Any) -> None:
    trainer = make(TIMA(sc_mhe=1), adaptation=JOINT, max_steps=2)
    changed = changed_by(trainer)
    assert RESIDUAL in changed
    assert "visual_projection.weight" in changed
    assert {name for name in changed if not name.startswith(("vision_model.", "visual_projection."))} == {RESIDUAL}
    trainer.save_model(str(tmp_path / "trained"))
    model, processor = load_checkpoint(str(tmp_path / "trained"))
    assert isinstance(model, PromptedCLIPModel)
    assert model.config.robustness["trains class_residuals"] is True
    rows = [
        evaluate_robustness(each.eval(), processor.tokenizer, trainer.eval_dataset, get_protocol("clean"))
        for each in (model, trainer.model)
    ]
    assert rows[0].clean_accuracy == rows[1].clean_accuracy
    with pytest.raises(ValueError, match="none of the 3 class names that have a learned residual"):
        evaluate_robustness(model, processor.tokenizer, other_classes(), get_protocol("clean"))


def test_the_teacher_and_its_class_embeddings_are_the_original(make: Any, tiny_checkpoint: Any) -> None:
    trainer = make(TIMA(), adaptation=JOINT, max_steps=2)
    trainer.train()
    base = RobustCLIPModel.from_pretrained(tiny_checkpoint).to(trainer.args.device)
    pixels = torch.rand(2, 3, 16, 16)
    assert torch.equal(trainer.teacher.encode_image(pixels), base.encode_image(pixels))
    inputs = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    batch = trainer.batches.make(trainer.model, trainer.teacher, inputs, 0)
    tokenizer = trainer.processing_class.tokenizer
    torch.testing.assert_close(batch.original_class_embeds, embed_classes(base, tokenizer, NAMES, TEMPLATES))
    now = embed_classes(trainer.model, tokenizer, NAMES, TEMPLATES)
    assert torch.equal(batch.class_embeds, now)
    assert not torch.allclose(now, batch.original_class_embeds, atol=1e-4)


@pytest.mark.parametrize("templates", [TEMPLATES, [*TEMPLATES, "one {}."]], ids=["one template", "two"])
def test_the_text_stage_lowers_the_energy_by_residuals_alone(make: Any, tmp_path: Any, templates: list[str]) -> None:
    data = ImageDataset(coloured_rows(48), name="coloured", templates=templates)
    trainer = make(TIMA(stage="text", iakd=0), adaptation=TEXT, train_dataset=data, max_steps=20, learning_rate=0.5)
    tokenizer = trainer.processing_class.tokenizer
    before = hyperspherical_energy(embed_classes(trainer.model, tokenizer, NAMES, templates))
    assert changed_by(trainer) == {RESIDUAL}
    after = hyperspherical_energy(embed_classes(trainer.model, tokenizer, NAMES, templates))
    # Three classes cannot have less than 1/4, on an equilateral triangle.
    assert 0.25 <= after < before - 0.1
    trainer.save_model(str(tmp_path / "first"))
    assert not (tmp_path / "first" / "model.safetensors").exists()


def test_a_second_stage_takes_the_residuals_as_they_are(make: Any, tmp_path: Any) -> None:
    first = make(TIMA(stage="text"), adaptation=TEXT, max_steps=2, folder=tmp_path / "first")
    first.train()
    first.save_model()
    model, _ = load_checkpoint(str(tmp_path / "first"))
    second = make(TIMA(stage="image"), adaptation=FullFineTuning(), model=model, max_steps=1)
    assert RESIDUAL not in changed_by(second)
    assert torch.equal(second.model.get_parameter(RESIDUAL), first.model.get_parameter(RESIDUAL))
    inputs = second.data_collator([second.train_dataset[row] for row in range(4)])
    batch = second.batches.make(second.model, second.teacher, inputs, 0)
    tuned = embed_classes(first.model, first.processing_class.tokenizer, NAMES, TEMPLATES)
    torch.testing.assert_close(batch.original_class_embeds, tuned)


@pytest.mark.parametrize(("objective", "adaptation"), [(TIMA(), JOINT), (TIMA(stage="text"), TEXT)], ids=str)
def test_a_run_goes_on_from_its_checkpoint(make: Any, tmp_path: Any, objective: Any, adaptation: Any) -> None:
    settings = {"adaptation": adaptation, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = make(objective, folder=tmp_path / "whole", **settings)
    whole.train()
    again = make(objective, folder=tmp_path / "again", **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, weight in whole.model.named_parameters():
        torch.testing.assert_close(again.model.get_parameter(name), weight)


def test_the_text_learning_rate_is_theirs(make: Any) -> None:
    trainer = make(TIMA(), adaptation=JOINT, learning_rate=0.1, text_learning_rate=0.003)
    groups = trainer.create_optimizer().param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    residual = trainer.model.get_parameter(RESIDUAL)
    assert rates[id(residual)] == 0.003
    assert {rate for parameter, rate in rates.items() if parameter != id(residual)} == {0.1}
    still = make(TIMA(), adaptation=JOINT, max_steps=1, text_learning_rate=0.0)
    assert RESIDUAL not in changed_by(still)


def test_another_objective_that_trains_text_takes_them_and_one_that_does_not_refuses(make: Any) -> None:
    assert changed_by(make(APT(), adaptation=TEXT, max_steps=1)) == {RESIDUAL}
    with pytest.raises(ValueError, match="TeCoA keeps the text tower frozen"):
        make(adaptation=JOINT)


@pytest.mark.parametrize("adaptation", [TEXT, Prompts(context=2, per_class=True)], ids=["residuals", "contexts"])
def test_data_to_evaluate_on_with_other_classes_are_refused_before_training(make: Any, adaptation: Any) -> None:
    seen = ImageDataset(coloured_rows(6), name="seen")
    with pytest.raises(ValueError, match="other/test has the class 'yellow', but the model learns something for each"):
        make(APT(), adaptation=adaptation, eval_dataset={"seen": seen, "other": other_classes()})
    make(APT(), adaptation=adaptation, eval_dataset={"seen": seen})
