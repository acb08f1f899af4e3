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


def test_last_layers_are_the_last_blocks_and_what_follows(tiny_model):
    FullFineTuning(["vision", "text"], last_layers={"vision": 1, "text": 0}).apply(tiny_model)
    learning = {name for name, parameter in tiny_model.named_parameters() if parameter.requires_grad}
    heads = ("vision_model.post_layernorm.", "text_model.final_layer_norm.")
    expected = (*heads, "visual_projection.", "text_projection.", "vision_model.encoder.layers.1.")
    assert learning == {name for name, _ in tiny_model.named_parameters() if name.startswith(expected)}


def test_all_layers_are_not_yet_the_whole_tower(tiny_model):
    FullFineTuning(["vision"], last_layers={"vision": 2}).apply(tiny_model)
    vision = {name: p.requires_grad for name, p in tiny_model.named_parameters() if name.startswith(VISION)}
    entrance = ("vision_model.embed", "vision_model.pre")
    assert {name for name, learns in vision.items() if not learns} == {n for n in vision if n.startswith(entrance)}


@pytest.mark.parametrize(
    ("last_layers", "told"),
    [({"text": 1}, "none of the towers"), ({"vision": -1}, "positive integer"), ({"vision": 1.5}, "positive integer")],
)
def test_wrong_last_layers_are_refused(last_layers, told):
    with pytest.raises(ValueError, match=told):
        FullFineTuning(["vision"], last_layers=last_layers)


def test_more_layers_than_there_are_is_refused(tiny_model):
    with pytest.raises(ValueError, match="is 3, but the vision tower has 2 blocks"):
        FullFineTuning(["vision"], last_layers={"vision": 3}).apply(tiny_model)
