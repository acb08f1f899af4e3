"""Residuals of class embeddings: against numpy, at 0, what they refuse, and that they come back."""

import numpy as np
import pytest
import torch
from transformers import AutoModel

from reference.guided_by_original import unit
from robust_clip.adaptation import FullFineTuning
from robust_clip.models import (
    PromptedCLIPModel,
    PromptSizes,
    ZeroShotClassifier,
    class_templates,
    embed_classes,
    export_text_tower,
    load_checkpoint,
)

NAMES = ["red", "green", "dark blue"]
TEMPLATES = ["This is a photo of a {}", 'a "{}" sign.']


def with_residuals(model, processor, templates=TEMPLATES, size=0.5):
    residual = FullFineTuning(["text"], class_residuals=True).apply(model, processor.tokenizer, NAMES, templates)
    with torch.no_grad():
        residual.text_model.class_residuals.vectors.normal_(0, size)
    return residual


def tokens(processor, *texts):
    return processor.tokenizer(list(texts), padding=True, return_tensors="pt")


@torch.no_grad()
def logits(model, processor, templates=TEMPLATES):
    pixels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    return ZeroShotClassifier(model, embed_classes(model, processor.tokenizer, NAMES, templates))(pixels)


@pytest.mark.parametrize("templates", [TEMPLATES[:1], TEMPLATES], ids=["one template", "two"])
def test_class_embeddings_are_those_of_numpy(tiny_model, tiny_processor, templates):
    model = with_residuals(tiny_model, tiny_processor, templates)
    residuals = model.text_model.class_residuals.vectors.detach().double().numpy()
    got = embed_classes(model, tiny_processor.tokenizer, NAMES, templates)
    for name, residual, embed in zip(NAMES, residuals, got, strict=True):
        texts = tokens(tiny_processor, *(template.format(name) for template in templates))
        features = tiny_model.encode_text(**texts).detach().double().numpy()
        moved = [unit(unit(feature) + residual) for feature in features]
        np.testing.assert_allclose(embed.numpy(), unit(np.mean(moved, axis=0)), atol=1e-6)
        assert np.abs(embed.numpy() - unit(features.mean(axis=0))).max() > 0.05


@torch.no_grad()
def test_residuals_of_0_change_no_bit(tiny_model, tiny_processor):
    model = PromptedCLIPModel.around(tiny_model, with_residuals(tiny_model, tiny_processor).config.sizes)
    texts = tokens(tiny_processor, *(template.format(name) for name in NAMES for template in TEMPLATES))
    assert torch.equal(model.encode_text(**texts), tiny_model.encode_text(**texts))
    assert torch.equal(logits(model, tiny_processor), logits(tiny_model, tiny_processor))


@torch.no_grad()
def test_stock_forward_and_a_tuple_see_them(tiny_model, tiny_processor):
    model = with_residuals(tiny_model, tiny_processor)
    texts = tokens(tiny_processor, *(TEMPLATES[0].format(name) for name in NAMES))
    pixels = torch.rand(2, 3, 16, 16)
    given = model(pixel_values=model.preprocess(pixels), **texts).logits_per_image
    classifier = ZeroShotClassifier(model, embed_classes(model, tiny_processor.tokenizer, NAMES, TEMPLATES[:1]))
    torch.testing.assert_close(given, classifier(pixels))
    assert torch.equal(model.get_text_features(**texts, return_dict=False)[1], model.encode_text(**texts))


def test_the_gradient_reaches_the_residuals_of_the_classes_in_the_batch_alone(tiny_model, tiny_processor):
    model = with_residuals(tiny_model, tiny_processor)
    texts = tokens(tiny_processor, *(TEMPLATES[1].format(name) for name in ("dark blue", "red")))
    model.encode_text(**texts).square().sum().backward()
    learned = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert learned.keys() == {"text_model.class_residuals.vectors"}
    assert (learned.popitem()[1].abs().amax(dim=1) > 0).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("This is a photo of a dark green", "'dark blue'"),
        ("a photo of a red", "'red'"),
        ("red", "'red'"),
        ("This is a photo of a red green", "'red'"),
    ],
)
def test_other_classes_and_templates_are_refused_with_near_names(tiny_model, tiny_processor, text, near):
    model = with_residuals(tiny_model, tiny_processor)
    told = f"Text 1 is none of the 3 class names that have a learned residual each; near it: .*{near}.*templates of"
    with pytest.raises(ValueError, match=told):
        model.encode_text(**tokens(tiny_processor, "This is a photo of a red", text))


def test_a_prompt_that_the_tower_cuts_is_still_found(tiny_model, tiny_processor):
    long = ["{} " + "very " * 80]
    model = with_residuals(tiny_model, tiny_processor, long)
    before, after = (embed_classes(each, tiny_processor.tokenizer, NAMES, long) for each in (tiny_model, model))
    assert ((before - after).abs().amax(dim=1) > 0.01).all()


def test_they_come_back_with_the_whole_model_or_alone(tiny_model, tiny_processor, tmp_path):
    model = with_residuals(tiny_model, tiny_processor)
    expected = logits(model, tiny_processor)
    model.save_pretrained(tmp_path / "alone")
    model.save_pretrained(tmp_path / "whole", whole=True)
    assert {file.name for file in (tmp_path / "alone").iterdir()} == {"prompts_config.json", "prompts.safetensors"}
    restored = [PromptedCLIPModel.from_pretrained(tmp_path / folder) for folder in ("alone", "whole")]
    restored += [AutoModel.from_pretrained(tmp_path / "whole"), load_checkpoint(str(tmp_path / "alone"))[0]]
    for other in restored:
        torch.testing.assert_close(logits(other, tiny_processor), expected, rtol=0, atol=1e-6)
        with pytest.raises(ValueError, match="near it"):
            embed_classes(other, tiny_processor.tokenizer, ["yellow"], TEMPLATES)
    half = PromptedCLIPModel.from_pretrained(tmp_path / "alone", dtype=torch.bfloat16)
    torch.testing.assert_close(logits(half, tiny_processor), expected, rtol=0, atol=0.2)


def test_two_classes_of_the_same_tokens_are_refused(tiny_model, tiny_processor):
    cut = ["very " * 80 + "{}"]
    with pytest.raises(ValueError, match="'red' and 'green' are the same tokens to this tokenizer.*rename one"):
        with_residuals(tiny_model, tiny_processor, cut)


def test_templates_stay_those_of_the_data(tiny_model, tiny_processor):
    assert class_templates(with_residuals(tiny_model, tiny_processor), TEMPLATES) == TEMPLATES


def test_a_text_tower_with_residuals_is_not_exported(tiny_model, tiny_processor, tmp_path):
    with pytest.raises(ValueError, match="class residuals cannot be exported; export_classifier"):
        export_text_tower(with_residuals(tiny_model, tiny_processor), tmp_path / "text.onnx")


@pytest.mark.parametrize("settings", [{}, {"context": 2, "class_tokens": [["red", [[3]]]]}], ids=["none", "context"])
def test_residuals_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match="give class_tokens, and no context"):
        PromptSizes(class_residuals=True, **settings)
