"""Full fine-tuning: exactly the named towers learn."""

import pytest

from robust_clip.adaptation import ADAPTATIONS, FullFineTuning

VISION, TEXT, SCALE = ("vision_model.", "visual_projection."), ("text_model.", "text_projection."), ("logit_scale",)


@pytest.mark.parametrize(
    ("adaptation", "prefixes"),
    [
        (FullFineTuning(), VISION),
        (FullFineTuning(["text"]), TEXT),
        (FullFineTuning(["vision", "text"]), VISION + TEXT),
        (FullFineTuning(["vision"], logit_scale=True), VISION + SCALE),
        (FullFineTuning(["text", "vision"], logit_scale=True), VISION + TEXT + SCALE),
    ],
    ids=str,
)
def test_exactly_the_named_parameters_learn(tiny_model, adaptation, prefixes):
    """Whatever learned before; the parts of stock CLIP are all known to this test."""
    for position, parameter in enumerate(tiny_model.parameters()):
        parameter.requires_grad_(position % 2 == 0)
    assert adaptation.apply(tiny_model) is tiny_model
    names = {name for name, _ in tiny_model.named_parameters()}
    assert {name for name in names if not name.startswith(VISION + TEXT + SCALE)} == set()
    learning = {name for name, parameter in tiny_model.named_parameters() if parameter.requires_grad}
    assert learning == {name for name in names if name.startswith(prefixes)}
    assert {name.split(".")[0] for name in learning} == {prefix.removesuffix(".") for prefix in prefixes}


@pytest.mark.parametrize("towers", [["audio"], ["vision", "audio"], [], "vision"])
def test_unknown_towers_are_refused(towers):
    with pytest.raises(ValueError, match="towers must be some of vision, text, got") as error:
        FullFineTuning(towers)
    assert repr(towers) in str(error.value)


def test_recipes_know_it_by_name():
    assert ADAPTATIONS["full"] is FullFineTuning
