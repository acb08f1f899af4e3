"""What a training step cannot cost less than."""

import pytest

from robust_clip import PGD
from robust_clip.adaptation import FullFineTuning, LoRA, Prompts
from robust_clip.cli.step_floor import gradient_pass, step_floor
from robust_clip.models import load_checkpoint
from robust_clip.objectives import LEAF, Clean, MMCoA, TeCoA


def test_the_floor_counts_every_pass() -> None:
    """In clean steps: 2 passes for each attack step, 3 for each with a gradient to the weights, 1 for the teacher."""
    attack = PGD(steps=2, step_size=0.1)
    assert step_floor(TeCoA(), attack) == pytest.approx(7 / 3)
    assert step_floor(Clean(), attack) == pytest.approx(1)
    assert step_floor(MMCoA(), attack, 0.5, 0.25) == pytest.approx((4 + 6) / 3 + 6 * 0.5 + 0.25)
    assert step_floor(LEAF(), attack, 0.5, 0.25) == pytest.approx(3 * 0.5)
    assert step_floor(TeCoA(), attack, image_gradient=2) == pytest.approx(6 / 3)
    assert step_floor(LEAF(), attack, 0.5, text_gradient=1) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("adaptation", "vision", "text"),
    [
        (FullFineTuning(), 3, 1),
        (FullFineTuning(["vision", "text"]), 3, 3),
        (FullFineTuning(["vision", "text"], last_layers={"vision": 1, "text": 0}), 2, 1),
        (FullFineTuning(["text"], class_residuals=True), 1, 1),
        (Prompts(tokens=2), 2, 1),
        (Prompts(context=2), 1, 2),
    ],
    ids=str,
)
def test_the_way_back_ends_at_the_first_weight_that_learns(adaptation, vision, text, tiny_checkpoint) -> None:
    model, processor = load_checkpoint(str(tiny_checkpoint))
    classes = (["red", "green"], ["a {}."]) if getattr(adaptation, "class_residuals", False) else ()
    model = adaptation.apply(model, processor.tokenizer, *classes)
    assert gradient_pass(model, "vision") == vision
    assert gradient_pass(model, "text") == text


def test_few_weights_of_an_adapter_cost_little_more_than_the_way_back(tiny_model) -> None:
    assert 2 < gradient_pass(LoRA(r=1).apply(tiny_model), "vision") < 2.3
