"""A CLIP from nothing: any text can be encoded, and misspelt sizes are noticed."""

import pytest
import torch
from transformers import CLIPTokenizer

from robust_clip.models.scratch import build_clip, train_tokenizer

TEXTS = ["a photo of a red", "a photo of a green", "a photo of a blue"]
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**TOWER, "image_size": 16, "patch_size": 8}
ODD = [
    "hello WORLD",
    "日本語",
    "Straße, naïve café",
    "🎉👩‍🚀",
    "don't  stop 123",
    "a\tb\nc",
    "\x00\x7f",
    "x" * 40,
    "¿qué?",
    "{}<|>",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=600, context_length=77)


@pytest.mark.parametrize("text", ODD)
def test_any_text_is_encoded_and_comes_back(tokenizer, text):
    """CLIP's tokenizer folds case and white space and spells numbers digit by digit; nothing else is lost."""
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in ids[1:-1]
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(decoded.split()) == "".join(text.lower().split())


def test_every_character_of_the_first_planes_is_encoded(tokenizer):
    text = "".join(chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000)
    ids = tokenizer(text)["input_ids"][1:-1]
    assert tokenizer.unk_token_id not in ids
    assert max(ids) < len(tokenizer)


def test_texts_that_it_was_fitted_to_are_short(tokenizer):
    bytes_only = train_tokenizer([], vocab_size=514, context_length=77)
    assert len(tokenizer("a photo of a red")["input_ids"]) == 2 + 5
    assert len(bytes_only("a photo of a red")["input_ids"]) == 2 + 12
    assert len(bytes_only) == 514


def test_the_vocabulary_keeps_to_its_size_and_the_context_to_its_length():
    tokenizer = train_tokenizer(TEXTS, vocab_size=518, context_length=9)
    assert len(tokenizer) == 518
    assert len(tokenizer("x y z " * 9, truncation=True)["input_ids"]) == 9
    with pytest.raises(ValueError, match="vocab_size must be at least 514, got 513"):
        train_tokenizer(TEXTS, vocab_size=513, context_length=77)


def test_a_saved_tokenizer_encodes_alike(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    assert again(TEXTS + ODD)["input_ids"] == tokenizer(TEXTS + ODD)["input_ids"]
    assert again.model_max_length == 77


@pytest.mark.parametrize("size", [16, 24])
def test_model_and_processor_fit_each_other(size):
    model, processor = build_clip(TEXTS, vision_config={**VISION, "image_size": size}, text_config=TOWER)
    assert model.config.text_config.vocab_size == len(processor.tokenizer)
    assert model.config.text_config.eos_token_id == processor.tokenizer.eos_token_id
    assert processor.image_processor.crop_size == {"height": size, "width": size}
    assert list(processor.image_processor.image_mean) == model.config.image_mean
    assert list(processor.image_processor.image_std) == model.config.image_std
    assert model.encode_image(torch.rand(2, 3, size, size)).shape == (2, 128)


def test_sizes_that_are_not_given_are_those_of_transformers():
    vision = {key: value for key, value in VISION.items() if key != "image_size"}
    model, processor = build_clip(TEXTS, vision_config=vision, text_config=TOWER)
    assert model.image_size == 224
    assert processor.image_processor.size["shortest_edge"] == 224


@pytest.mark.parametrize("tower", ["vision_config", "text_config"])
@pytest.mark.parametrize(
    ("key", "message"),
    [("num_layers", r"did you mean num_hidden_layers\?"), ("colour", "allowed: .*num_hidden_layers")],
)
def test_an_unknown_size_is_refused_with_the_known_ones(tower, key, message):
    configs = {"vision_config": VISION, "text_config": TOWER}
    configs[tower] = {**configs[tower], key: 3}
    with pytest.raises(ValueError, match=f"Unknown key '{key}' in {tower}; {message}"):
        build_clip(TEXTS, **configs)
