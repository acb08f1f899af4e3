"""Training prompts: what a step sees, what changes, and that it comes back."""

from typing import Any

import pytest
import torch

from robust_clip.adaptation import Prompts
from robust_clip.models import PromptedCLIPModel, RobustCLIPModel, embed_classes
from robust_clip.objectives import APT, FAP, PMGAFT, TeCoA

NAMES = ["red", "green", "blue"]
CONTEXT = Prompts(context=3)


@pytest.mark.parametrize(
    ("objective", "adaptation"),
    [
        (TeCoA(), Prompts(frame=3, tokens=2)),
        (PMGAFT(), Prompts(tokens=2, depth=2)),
        (APT(), CONTEXT),
        (APT(attack_prompt="perturbed", prompt_step=0.1), Prompts(context="a photo of a", per_class=True)),
        (FAP(), Prompts(tokens=2, context=2, depth=2)),
    ],
    ids=["tecoa", "pmg_aft", "apt", "apt_perturbed", "fap"],
)
def test_all_prompts_change_and_nothing_else_and_they_come_back(
    make: Any, tmp_path: Any, tiny_checkpoint: Any, objective: Any, adaptation: Prompts
) -> None:
    trainer = make(objective, adaptation=adaptation, max_steps=2)
    model = trainer.model
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer.train()
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name, _ in model.prompts()}
    model.save_prompts(tmp_path / "prompts")
    restored = PromptedCLIPModel.from_pretrained(tmp_path / "prompts")
    assert restored.config.base["name"] == str(tiny_checkpoint)
    assert all(torch.equal(prompt, model.get_parameter(name)) for name, prompt in restored.prompts())
    assert restored.config.robustness["objective"] == type(objective).__name__


def test_the_constant_prompt_is_that_of_the_model_without_context(make: Any, tiny_checkpoint: Any) -> None:
    trainer = make(APT(attack_prompt="constant"), adaptation=CONTEXT)
    tokenizer = trainer.processing_class.tokenizer
    inputs = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    batch = trainer.batches.make(trainer.model, trainer.teacher, inputs, 0)
    base = RobustCLIPModel.from_pretrained(tiny_checkpoint)
    expected = embed_classes(base, tokenizer, NAMES, ["a photo of a {}"])
    torch.testing.assert_close(batch.other_class_embeds, expected)
    learned = embed_classes(trainer.model, tokenizer, NAMES, ["{}."])
    torch.testing.assert_close(batch.class_embeds, learned)
    prompts = tokenizer([f"{name}." for name in NAMES], padding=True, return_tensors="pt")
    assert torch.equal(batch.prompt_ids, prompts["input_ids"])


def test_the_teacher_has_no_prompts_and_no_weights_of_its_own(make: Any, tiny_checkpoint: Any) -> None:
    trainer = make(PMGAFT(), adaptation=Prompts(frame=3))
    pixels = torch.rand(2, 3, 16, 16)
    base = RobustCLIPModel.from_pretrained(tiny_checkpoint)
    assert torch.equal(trainer.teacher.encode_image(pixels), base.encode_image(pixels))
    ours = {id(parameter) for parameter in trainer.model.parameters()}
    assert {id(parameter) for parameter in trainer.teacher.parameters()} < ours


def test_a_run_goes_on_from_its_checkpoint(make: Any, tmp_path: Any) -> None:
    settings = {"adaptation": Prompts(frame=3, tokens=2), "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = make(folder=tmp_path / "whole", **settings)
    whole.train()
    again = make(folder=tmp_path / "again", **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, prompt in whole.model.prompts():
        torch.testing.assert_close(again.model.get_parameter(name), prompt)


def test_prompts_of_a_tower_that_the_objective_leaves_alone_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="APT keeps the vision tower frozen"):
        make(APT(), adaptation=Prompts(tokens=2, context=2))
    with pytest.raises(ValueError, match="TeCoA trains the vision tower"):
        make(TeCoA(), adaptation=CONTEXT)
