"""What steps see where texts are attacked, or the text tower learns."""

import copy
from typing import Any, ClassVar

import pytest
import torch

from robust_clip import attacks
from robust_clip.adaptation import LoRA
from robust_clip.data import ImageDataset
from robust_clip.models import embed_classes
from robust_clip.objectives import LEAF, TIMA, MMCoA, TeCoA
from robust_clip.threat_model import ThreatModel
from robust_clip.training.adapted import drop_towers, original_of
from robust_clip.training.batches import BatchMaker
from tests.conftest import coloured_rows
from tests.training.conftest import ATTACK

TEXTS = {"text_attack": attacks.LEAF(edits=1)}
NAMES = ["red", "green", "blue"]


class TextTeCoA(TeCoA):
    """TeCoA that trains the text tower through the class prompts, beside a frozen original."""

    needs_teacher: ClassVar[bool] = True
    trains_text: ClassVar[bool] = True
    trains_class_prompts: ClassVar[bool] = True


def batch_of(trainer: Any, step: int = 0) -> Any:
    inputs = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    return trainer.batches.make(trainer.model, trainer.teacher, inputs, step)


def test_class_embeddings_follow_a_text_tower_that_learns(make: Any) -> None:
    trainer = make(TextTeCoA(), **ATTACK)
    first = batch_of(trainer)
    assert torch.equal(first.class_embeds, first.original_class_embeds)
    torch.nn.init.normal_(trainer.model.text_projection.weight)
    second = batch_of(trainer)
    templates = trainer.train_dataset.templates
    fresh = embed_classes(trainer.model, trainer.processing_class.tokenizer, NAMES, templates)
    assert torch.equal(second.class_embeds, fresh)
    assert not second.class_embeds.requires_grad
    assert second.learning_class_embeds.requires_grad
    assert torch.equal(second.learning_class_embeds, second.class_embeds)
    assert torch.equal(second.original_class_embeds, first.class_embeds)
    assert len(second.prompt_ids) == 3 * len(templates)


def test_attack_and_loss_share_one_pass_of_the_class_prompts(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, passes = make(TIMA(), **ATTACK), []
    encode = trainer.model.encode_text
    monkeypatch.setattr(
        trainer.model, "encode_text", lambda *some, **named: passes.append(None) or encode(*some, **named)
    )
    inputs = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    trainer.compute_loss(trainer.model, inputs).backward()
    assert len(passes) == 1
    assert trainer.model.text_projection.weight.grad.abs().sum() > 0


def test_dropout_is_for_the_loss_and_not_for_the_attack(make: Any) -> None:
    adapter = LoRA(["vision", "text"], r=2, lora_dropout=0.5)
    trainer = make(TIMA(), adaptation=adapter, **ATTACK)
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    trainer.model.train()
    first, second = batch_of(trainer), batch_of(trainer)
    assert torch.equal(first.class_embeds, second.class_embeds)
    assert not torch.allclose(first.learning_class_embeds, second.learning_class_embeds)


def test_class_embeddings_of_a_frozen_text_tower_are_computed_once(make: Any) -> None:
    trainer = make()
    assert batch_of(trainer).class_embeds is batch_of(trainer).class_embeds
    assert batch_of(trainer).prompt_ids is None


def test_each_distinct_prompt_is_attacked_once(make: Any) -> None:
    trainer = make(MMCoA(), **ATTACK, **TEXTS)
    asked: list[int] = []
    attack = trainer.batches.text_attack
    search = type(attack).search

    class Counting(type(attack)):  # type: ignore[misc]
        def search(self, problem: Any) -> list[str]:
            asked.append(len(problem.texts))
            return search(self, problem)

    trainer.batches.text_attack = Counting(edits=1)
    batch = batch_of(trainer)
    assert asked == [3]
    assert len(batch.attacked_ids) == len(batch.input_ids) == 3
    assert batch.text_index.tolist() == batch.labels.tolist()


def test_the_attack_on_texts_differs_from_step_to_step(make: Any) -> None:
    trainer = make(MMCoA(), **ATTACK, **TEXTS)
    tokens = [batch_of(trainer, step).attacked_ids.tolist() for step in (0, 0, 1, 2, 3)]
    assert tokens[0] == tokens[1]
    assert any(other != tokens[0] for other in tokens[2:])


def test_both_towers_learn_and_the_attack_on_texts_is_timed(make: Any) -> None:
    trainer = make(MMCoA(), **ATTACK, **TEXTS, max_steps=2)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    changed = {name for name, value in trainer.model.state_dict().items() if not before[name].equal(value)}
    assert {"visual_projection.weight", "text_projection.weight", "logit_scale"} <= changed
    assert trainer.state.log_history[0]["text_attack_seconds"] > 0


def test_captions_beyond_the_context_are_told_of_once(
    tiny_model: Any, tiny_processor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    batches = BatchMaker(MMCoA(domain="image"), tiny_processor.tokenizer, None, (), attacked=False)
    image = torch.rand(1, 3, 8, 8)
    for text, warnings in (("a cat", 0), ("a very long caption of a cat " * 40, 1), ("a dog in the rain " * 40, 1)):
        batches.make(tiny_model, None, {"pixels": image, "labels": None, "texts": [text]}, step=0)
        assert caplog.text.count("captions of this batch are cut at") == warnings


def test_text_tower_has_its_own_learning_rate(make: Any) -> None:
    still = make(MMCoA(), **ATTACK, **TEXTS, max_steps=1, text_learning_rate=0.0)
    before = copy.deepcopy(still.model.state_dict())
    still.train()
    changed = {name for name, value in still.model.state_dict().items() if not before[name].equal(value)}
    assert "visual_projection.weight" in changed
    assert not any(name.startswith("text_") for name in changed)


def test_learning_rate_for_a_frozen_text_tower_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="no parameter of the text tower learns"):
        make(text_learning_rate=1e-3).create_optimizer()
    with pytest.raises(ValueError, match="must not be negative"):
        make(text_learning_rate=-1.0)


def test_teacher_keeps_only_the_towers_that_are_asked(tiny_model: Any) -> None:
    teacher = original_of(tiny_model)
    drop_towers(teacher, tiny_model, ("text",))
    assert not list(teacher.vision_model.parameters())
    assert list(teacher.text_model.parameters())
    tiny_model.text_model.requires_grad_(False)
    shared = original_of(tiny_model)
    drop_towers(shared, tiny_model, ("vision",))
    ours, theirs = (model.text_model.final_layer_norm.weight for model in (tiny_model, shared))
    assert ours is theirs


@pytest.mark.parametrize(
    ("objective", "parts", "told"),
    [
        (LEAF(), {}, "give a text attack"),
        (TeCoA(), ATTACK | TEXTS, "no use for a text attack"),
        (MMCoA(domain="image"), ATTACK | TEXTS, "no use for a text attack"),
        (MMCoA(domain="text"), ATTACK | TEXTS, "no use for an attack"),
        (TeCoA(), ATTACK | {"threat_model": ThreatModel("linf", 0)}, "linf 0 leaves every image as it is"),
    ],
    ids=str,
)
def test_attacks_of_no_use_are_refused(make: Any, objective: Any, parts: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make(objective, **parts)


def test_one_class_is_refused(make: Any) -> None:
    red = ImageDataset(coloured_rows(24)).keep_classes(["red"])
    with pytest.raises(ValueError, match=r"TeCoA tells classes apart, but the data has only \['red'\]"):
        make(TeCoA(), train_dataset=red)
