"""A learned context among the words: against a literal forward, against words, per class, and too long a text."""

import pytest
import torch

from robust_clip.evaluation import evaluate_robustness, get_protocol
from robust_clip.models import PromptedCLIPModel, PromptSizes, class_templates, embed_classes

NAMES = ["red", "green", "blue"]


def tokens(processor, *texts):
    return processor.tokenizer(list(texts), padding=True, return_tensors="pt")


def with_context(model, count, **sizes):
    prompted = PromptedCLIPModel.around(model, PromptSizes(context=count, **sizes))
    with torch.no_grad():
        # Far from 0, so that a misplaced vector shows.
        prompted.text_model.embeddings.context.copy_(torch.randn_like(prompted.text_model.embeddings.context))
    return prompted


@torch.no_grad()
def literal_features(model, ids, vectors, position):
    """Features of one text without padding, block by block, with the context put in as CoOp writes it."""
    tower = model.text_model
    words = tower.embeddings.token_embedding(ids)
    start, text, end = words[:1], words[1:-1], words[-1:]
    half = len(vectors) // 2
    parts = [start, vectors, text, end] if position == "end" else [start, vectors[:half], text, vectors[half:], end]
    hidden = torch.cat(parts) + tower.embeddings.position_embedding.weight[: len(ids) + len(vectors)]
    causal = torch.full((len(hidden), len(hidden)), -torch.inf).triu(1)[None, None]
    hidden = hidden[None]
    for number, layer in enumerate(tower.encoder.layers):
        deeper = getattr(tower.encoder, "prompts", None)
        if deeper is not None and 0 < number <= len(deeper):
            hidden[0, 1 : 1 + len(vectors)] = deeper[number - 1]
        hidden = layer(hidden, causal)
    return model.text_projection(tower.final_layer_norm(hidden)[0, -1])


@pytest.mark.parametrize("position", ["end", "middle"])
@pytest.mark.parametrize("count", [1, 4, 5])
@pytest.mark.parametrize("masked", [True, False])
@torch.no_grad()
def test_texts_of_any_length_are_those_of_a_literal_forward(tiny_model, tiny_processor, position, count, masked):
    model = with_context(tiny_model, count, class_position=position)
    texts = ["red.", "a very long green sentence, and then some.", "b"]
    batch = tokens(tiny_processor, *texts)
    got = model.encode_text(batch["input_ids"], batch["attention_mask"] if masked else None)
    for text, features in zip(texts, got, strict=True):
        ids = tokens(tiny_processor, text)["input_ids"][0]
        expected = literal_features(model, ids, model.text_model.embeddings.context[0], position)
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_deep_context_is_replaced_in_each_layer(tiny_model, tiny_processor):
    model = with_context(tiny_model, 3, depth=2)
    ids = tokens(tiny_processor, "green.")["input_ids"]
    expected = literal_features(model, ids[0], model.text_model.embeddings.context[0], "end")
    torch.testing.assert_close(model.encode_text(ids)[0], expected, atol=1e-5, rtol=1e-4)
    shallow = with_context(tiny_model, 3)
    shallow.text_model.embeddings.context.copy_(model.text_model.embeddings.context)
    assert not torch.allclose(shallow.encode_text(ids)[0], expected, atol=1e-4)


@pytest.mark.parametrize("quirk", [False, True], ids=["end token", "largest id"])
@torch.no_grad()
def test_a_context_of_words_is_the_words(tiny_model, tiny_processor, quirk):
    """ "a photo of a" as vectors and "red" as text is "a photo of a red", new names and all."""
    if quirk:
        tiny_model.config.text_config.eos_token_id = tiny_model.text_model.eos_token_id = 2
    words = tiny_processor.tokenizer("a photo of a", add_special_tokens=False)["input_ids"]
    model = PromptedCLIPModel.around(tiny_model, PromptSizes(context=len(words)))
    model.text_model.eos_token_id = tiny_model.text_model.eos_token_id
    model.text_model.embeddings.context.copy_(tiny_model.text_model.embeddings.token_embedding.weight[words])
    names = [*NAMES, "purple elephant"]
    expected = embed_classes(tiny_model, tiny_processor.tokenizer, names, ["a photo of a {}"])
    got = embed_classes(model, tiny_processor.tokenizer, names, ["{}"])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(got, embed_classes(tiny_model, tiny_processor.tokenizer, names, ["{}"]), atol=1e-2)


@pytest.mark.parametrize("position", ["end", "middle"])
@torch.no_grad()
def test_a_text_that_leaves_no_room_is_cut_as_the_tokenizer_cuts(tiny_model, tiny_processor, position):
    model, tokenizer = with_context(tiny_model, 7, class_position=position), tiny_processor.tokenizer
    longest = tiny_model.config.text_config.max_position_embeddings
    text = "green blue red " * 60
    batch = tokenizer([text, "red"], padding=True, truncation=True, max_length=longest, return_tensors="pt")
    assert batch["input_ids"].shape[1] == longest
    cut = tokenizer([text], truncation=True, max_length=longest - 7, return_tensors="pt")["input_ids"][0]
    got = model.encode_text(**batch)
    vectors = model.text_model.embeddings.context[0]
    for features, ids in zip(got, (cut, tokens(tiny_processor, "red")["input_ids"][0]), strict=True):
        expected = literal_features(model, ids, vectors, position)
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)


def per_class(model, tokenizer, count=2):
    forms = [
        (name, [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (name, f"{name}.")])
        for name in NAMES
    ]
    return with_context(model, count, class_tokens=forms)


@torch.no_grad()
def test_each_class_has_its_own_context_in_any_order_and_with_or_without_full_stop(tiny_model, tiny_processor):
    model = per_class(tiny_model, tiny_processor.tokenizer)
    assert model.text_model.embeddings.context.shape == (3, 2, 16)
    for text, row in (("blue.", 2), ("red", 0), ("green.", 1)):
        batch = tokens(tiny_processor, text, "red.", "blue")
        vectors = model.text_model.embeddings.context[row]
        expected = literal_features(model, tokens(tiny_processor, text)["input_ids"][0], vectors, "end")
        torch.testing.assert_close(model.encode_text(**batch)[0], expected, atol=1e-5, rtol=1e-4)


def test_a_name_that_no_context_was_learned_for_is_refused_with_near_ones(tiny_model, tiny_processor):
    model = per_class(tiny_model, tiny_processor.tokenizer)
    with pytest.raises(ValueError, match="Text 1 is none of the 3 class names .* near it: 'green', .*one context"):
        model.encode_text(**tokens(tiny_processor, "red.", "green green."))
    with pytest.raises(ValueError, match="no other words"):
        model.encode_text(**tokens(tiny_processor, "a photo of a red."))


def test_the_gradient_reaches_the_contexts_of_the_classes_in_the_batch_alone(tiny_model, tiny_processor):
    model = per_class(tiny_model, tiny_processor.tokenizer)
    model.encode_text(**tokens(tiny_processor, "red.", "blue.")).square().sum().backward()
    reached = model.text_model.embeddings.context.grad.abs().amax(dim=(1, 2)) > 0
    assert reached.tolist() == [True, False, True]


def test_positions_of_ones_own_are_refused(tiny_model, tiny_processor):
    ids = tokens(tiny_processor, "red")["input_ids"]
    with pytest.raises(ValueError, match="leave out position_ids"):
        with_context(tiny_model, 2).get_text_features(ids, position_ids=torch.arange(ids.shape[1])[None])


def test_the_context_takes_the_place_of_a_template(tiny_model):
    template = ["This is a photo of a {}"]
    assert class_templates(with_context(tiny_model, 2), template) == ("{}.",)
    assert class_templates(tiny_model, template) == template
    assert class_templates(PromptedCLIPModel.around(tiny_model, PromptSizes(frame=2)), template) == template


def test_a_row_says_that_the_context_took_the_place_of_the_templates(tiny_model, tiny_processor, coloured):
    model = with_context(tiny_model, 2)
    tokenizer, clean = tiny_processor.tokenizer, get_protocol("clean")
    rows = [evaluate_robustness(each, tokenizer, coloured, clean) for each in (model, tiny_model)]
    assert [row.dataset["templates"] for row in rows] == [["{}."], ["This is a photo of a {}"]]
    assert rows[0].dataset["prompts"] != rows[1].dataset["prompts"]
