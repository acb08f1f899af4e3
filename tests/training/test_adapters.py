"""Training adapters: what changes, what the teacher is, what is saved, and that it goes on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import CLIPModel

from robust_clip.adaptation import LoRA, PeftMethod, Prompts
from robust_clip.models import RobustCLIPModel
from robust_clip.objectives import PMGAFT, TGAZSR, MMCoA, TeCoA
from tests.training.conftest import trainer_for
from tests.training.test_batches import TEXTS

PIXELS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("objective", "adaptation", "more"),
    [
        (TeCoA(), LoRA(r=2), {}),
        (PMGAFT(), LoRA(r=2, lora_dropout=0.1), {}),
        (TGAZSR(), LoRA(r=2, peft_config={"use_dora": True}), {}),
        (TeCoA(), PeftMethod(peft_config={"peft_type": "LOHA", "r": 2}), {}),
        (MMCoA(), LoRA(["vision", "text"], ["q_proj", "v_proj"]), TEXTS),
    ],
    ids=["tecoa", "pmg_aft", "tga_zsr_dora", "loha", "mmcoa"],
)
def test_only_the_adapter_changes(make: Any, objective: Any, adaptation: Any, more: Any) -> None:
    trainer = make(objective, adaptation=adaptation, max_steps=2, **more)
    model = trainer.model
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    trainer.train()
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == learning
    assert len(learning) < len(before)


def test_the_teacher_is_the_model_with_the_adapter_off(make: Any, tiny_checkpoint: Any) -> None:
    """Before and after training, and without a second copy of any weight of the towers."""
    trainer = make(PMGAFT(), adaptation=LoRA(r=2), max_steps=3)
    original = RobustCLIPModel.from_pretrained(tiny_checkpoint).encode_image(PIXELS)
    assert torch.equal(trainer.teacher.encode_image(PIXELS), original)
    trainer.train()
    assert torch.equal(trainer.teacher.encode_image(PIXELS), original)
    assert not torch.equal(trainer.model.eval().encode_image(PIXELS), original)
    ours = {id(weight) for weight in trainer.model.parameters()}
    own = [name for name, weight in trainer.teacher.named_parameters() if id(weight) not in ours]
    assert all("lora_" in name for name in own)


def test_what_is_saved_is_the_adapter_for_stock_peft(make: Any, tmp_path: Any, tiny_checkpoint: Any) -> None:
    trainer = make(adaptation=LoRA(r=2), max_steps=2)
    trainer.train()
    trainer.save_model()
    assert not (tmp_path / "model.safetensors").exists()
    stock = PeftModel.from_pretrained(CLIPModel.from_pretrained(tiny_checkpoint), tmp_path).eval()
    model = trainer.model.eval()
    theirs = stock.get_image_features(pixel_values=model.preprocess(PIXELS)).pooler_output
    assert torch.equal(theirs, model.encode_image(PIXELS))
    told = RobustCLIPModel.from_pretrained(tmp_path).config.robustness
    assert (told["objective"], told["adaptation"], told["trains r"]) == ("TeCoA", "LoRA", 2)


@pytest.mark.parametrize("best", [False, True])
def test_a_run_goes_on_from_its_checkpoint(make: Any, tmp_path: Any, best: bool) -> None:
    settings = {"adaptation": LoRA(r=2), "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    if best:
        metric = "eval_robust_accuracy"
        settings |= {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
        settings |= {"metric_for_best_model": metric}
    whole = make(folder=tmp_path / "whole", **settings)
    whole.train()
    again = make(folder=tmp_path / "again", **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for (name, expected), got in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(got, expected, msg=name)
    if best:
        steps = int(whole.state.best_model_checkpoint.rsplit("-", 1)[1])
        saved = RobustCLIPModel.from_pretrained(tmp_path / "whole" / f"checkpoint-{steps}")
        assert torch.equal(whole.model.eval().encode_image(PIXELS), saved.encode_image(PIXELS))


def test_a_checkpoint_of_another_adapter_is_refused(make: Any, tmp_path: Any) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    more, fewer = LoRA(["vision"], ["q_proj", "fc1"]), LoRA(["vision"], ["q_proj"])
    for number, (first, second) in enumerate([(more, fewer), (fewer, more)]):
        make(folder=tmp_path / f"{number}", adaptation=first, **settings).train()
        again = make(folder=tmp_path / "again", adaptation=second, **settings)
        with pytest.raises(ValueError, match="of another adapter"):
            again.train(resume_from_checkpoint=str(tmp_path / f"{number}" / "checkpoint-2"))


def test_prompts_and_an_adapter_learn_together_and_go_on(
    tmp_path: Path, tiny_checkpoint: Path, tiny_processor: Any
) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "adaptation": LoRA(r=2)}

    def build(folder: str) -> Any:
        model = Prompts(frame=2).apply(RobustCLIPModel.from_pretrained(tiny_checkpoint))
        trainer = trainer_for(tmp_path / folder, tiny_checkpoint, tiny_processor, model=model, **settings)
        for _, prompt in trainer.model.prompts():
            prompt.requires_grad_(True)
        return trainer

    whole, again = build("whole"), build("again")
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for (name, expected), got in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(got, expected, msg=name)


def test_an_adapter_of_the_wrong_tower_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="TeCoA keeps the text tower frozen"):
        make(adaptation=LoRA(["vision", "text"]))
