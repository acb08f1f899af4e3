"""Full fine-tuning: exactly the named towers learn."""

import pytest
import torch

from robust_clip.adaptation import ADAPTATIONS, FullFineTuning
from robust_clip.models import PromptedCLIPModel, PromptSizes

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


NAMES, TEMPLATES = ["red", "green", "red"], ["This is a photo of a {}"]
RESIDUAL = "text_model.class_residuals.vectors"


@pytest.mark.parametrize(
    ("settings", "prefixes"),
    [
        ({"towers": ["text"]}, ()),
        ({"towers": ["vision", "text"]}, VISION),
        ({"towers": ["vision", "text"], "logit_scale": True}, VISION + SCALE),
        ({"towers": ["vision", "text"], "last_layers": {"vision": 0}}, ("vision_model.post", "visual_projection.")),
    ],
    ids=str,
)
def test_residuals_learn_in_place_of_the_text_tower(tiny_model, tiny_processor, settings, prefixes):
    adaptation = FullFineTuning(**settings, class_residuals=True)
    model = adaptation.apply(tiny_model, tiny_processor.tokenizer, NAMES, TEMPLATES)
    assert isinstance(model, PromptedCLIPModel)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    names = {name for name, _ in tiny_model.named_parameters()}
    assert learning == {name for name in names if name.startswith(prefixes)} | {RESIDUAL}
    vectors = model.get_parameter(RESIDUAL)
    # The same name twice is one class.
    assert vectors.shape == (2, tiny_model.config.projection_dim)
    assert not vectors.any()
    assert model.visual_projection.weight is tiny_model.visual_projection.weight


def test_a_model_with_such_residuals_goes_on_with_them_and_no_other_does(tiny_model, tiny_processor):
    adaptation = FullFineTuning(["text"], class_residuals=True)
    first = adaptation.apply(tiny_model, tiny_processor.tokenizer, NAMES, TEMPLATES)
    with torch.no_grad():
        first.get_parameter(RESIDUAL).fill_(7)
    assert adaptation.apply(first, tiny_processor.tokenizer, NAMES, TEMPLATES) is first
    assert (first.get_parameter(RESIDUAL) == 7).all()
    for names, templates in ((["red", "blue"], TEMPLATES), (NAMES, ["a {}"])):
        with pytest.raises(ValueError, match="residuals for other classes or templates"):
            adaptation.apply(first, tiny_processor.tokenizer, names, templates)
    framed = PromptedCLIPModel.around(tiny_model, PromptSizes(frame=2))
    with pytest.raises(ValueError, match="The model has prompts, or residuals"):
        adaptation.apply(framed, tiny_processor.tokenizer, NAMES, TEMPLATES)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"towers": ["vision"]}, "name text, too, in towers"),
        ({"towers": ["vision", "text"], "last_layers": {"text": 1}}, "leave out last_layers.text"),
    ],
)
def test_residuals_beside_a_text_tower_that_learns_or_is_not_named_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        FullFineTuning(**settings, class_residuals=True)


def test_residuals_ask_for_what_they_need(tiny_model):
    with pytest.raises(ValueError, match="need tokenizer, class names and templates"):
        FullFineTuning(["text"], class_residuals=True).apply(tiny_model)
