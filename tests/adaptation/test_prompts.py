"""The adaptation `prompts`: what learns, where it begins, and how it goes on."""

import pytest
import torch

from robust_clip.adaptation import ADAPTATIONS, Prompts
from robust_clip.models import PromptedCLIPModel, embed_classes

NAMES = ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("adaptation", "towers"),
    [
        (Prompts(frame=3), ("vision",)),
        (Prompts(patch=3), ("vision",)),
        (Prompts(tokens=2, depth=2), ("vision",)),
        (Prompts(context=4), ("text",)),
        (Prompts(frame=3, tokens=2, context=4, depth=2), ("vision", "text")),
    ],
)
def test_prompts_and_nothing_else_learn_in_the_towers_that_have_them(tiny_model, adaptation, towers):
    model = adaptation.apply(tiny_model)
    assert isinstance(model, PromptedCLIPModel)
    assert (adaptation.towers, adaptation.logit_scale) == (towers, False)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, _ in model.prompts()}
    assert {name.split("_model")[0] for name in learning} == set(towers)
    assert model.learns_prompts_alone
    assert model.visual_projection.weight is tiny_model.visual_projection.weight


def test_a_model_with_such_prompts_goes_on_with_them(tiny_model):
    adaptation = Prompts(frame=3, tokens=2)
    first = adaptation.apply(tiny_model)
    with torch.no_grad():
        first.vision_model.embeddings.tokens.fill_(7)
    again = adaptation.apply(first.requires_grad_(True))
    assert again is first
    assert (again.vision_model.embeddings.tokens == 7).all()
    assert again.learns_prompts_alone
    with pytest.raises(ValueError, match="has prompts {'frame': 3, 'tokens': 2}, not {'frame': 2}"):
        Prompts(frame=2).apply(first)


def test_the_seed_draws_the_first_values(tiny_model):
    one, same, other = (Prompts(tokens=2, seed=seed).apply(tiny_model) for seed in (3, 3, 4))
    tokens = [model.vision_model.embeddings.tokens for model in (one, same, other)]
    assert torch.equal(tokens[0], tokens[1])
    assert not torch.equal(tokens[0], tokens[2])


@torch.no_grad()
def test_a_context_that_begins_from_words_says_what_they_say(tiny_model, tiny_processor):
    model = Prompts(context="a photo of a").apply(tiny_model, tiny_processor.tokenizer)
    expected = embed_classes(tiny_model, tiny_processor.tokenizer, NAMES, ["a photo of a {}."])
    got = embed_classes(model, tiny_processor.tokenizer, NAMES, ["{}."])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    each = Prompts(context="a photo of a", per_class=True).apply(tiny_model, tiny_processor.tokenizer, NAMES)
    got = embed_classes(each, tiny_processor.tokenizer, NAMES, ["{}."])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_each_class_gets_a_context_and_twice_the_same_name_one(tiny_model, tiny_processor):
    tokenizer = tiny_processor.tokenizer
    model = Prompts(context=2, per_class=True).apply(tiny_model, tokenizer, [*NAMES, "red"])
    assert model.text_model.embeddings.context.shape == (3, 2, 16)
    assert embed_classes(model, tokenizer, ["blue", "red"], ["{}"]).shape == (2, 8)
    with pytest.raises(ValueError, match="near it: "):
        embed_classes(model, tokenizer, ["yellow"], ["{}."])
    with pytest.raises(ValueError, match="not .*class_tokens"):
        Prompts(context=2, per_class=True).apply(model, tokenizer, ["red", "blue"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "set frame, patch, tokens or context"),
        ({"frame": -1}, "frame must be a whole number from 0 on, got -1"),
        ({"context": 2.5}, "context must be a whole number"),
        ({"tokens": 2, "depth": 0}, "depth must be a whole number from 1 on, got 0"),
        ({"tokens": 2, "per_class": True}, "per_class needs a context"),
        ({"context": 2, "per_class": True, "depth": 2}, "leave out per_class"),
        ({"context": 2, "class_position": "start"}, "class_position must be end or middle, got 'start'"),
    ],
)
def test_prompts_that_cannot_be_are_refused_before_a_model_is_loaded(settings, message):
    with pytest.raises(ValueError, match=message):
        ADAPTATIONS["prompts"](**settings)


def test_what_needs_words_asks_for_the_tokenizer(tiny_model):
    with pytest.raises(ValueError, match="begins from 'a photo' needs the tokenizer"):
        Prompts(context="a photo").apply(tiny_model)
    with pytest.raises(ValueError, match="needs tokenizer and class names"):
        Prompts(context=2, per_class=True).apply(tiny_model)


def test_prompts_that_the_towers_have_no_room_for_are_refused(tiny_model):
    with pytest.raises(ValueError, match="frame 8 wide leaves nothing of an image of 16"):
        Prompts(frame=8).apply(tiny_model)
    with pytest.raises(ValueError, match="depth is 3, but the text tower has 2 layers"):
        Prompts(context=2, depth=3).apply(tiny_model)
