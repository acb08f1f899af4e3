"""Class embeddings, and the function that attacks see."""

import pytest
import torch
from torch.nn import functional as F

from robust_clip.models import ZeroShotClassifier, embed_classes

NAMES = ["red", "green", "blue"]
TEMPLATES = ["a photo of a {}.", "This is a {}", "{}"]


@pytest.fixture
def class_embeds(tiny_model, tiny_processor):
    return embed_classes(tiny_model, tiny_processor.tokenizer, NAMES, ["a photo of a {}."])


@torch.no_grad()
def test_logits_are_those_of_clips_forward(tiny_model, tiny_processor, class_embeds):
    pixels = torch.rand(5, 3, 11, 11)
    prompts = [f"a photo of a {name}." for name in NAMES]
    tokens = tiny_processor.tokenizer(prompts, padding=True, return_tensors="pt")
    expected = tiny_model(pixel_values=tiny_model.preprocess(pixels), **tokens).logits_per_image
    torch.testing.assert_close(ZeroShotClassifier(tiny_model, class_embeds)(pixels), expected, rtol=0, atol=1e-5)


def logits_and_gradients(classifier, pixels, batch_size):
    pixels = pixels.clone().requires_grad_()
    logits = torch.cat([classifier(batch) for batch in pixels.split(batch_size)])
    (gradient,) = torch.autograd.grad(logits.square().sum(), pixels)
    return logits.detach(), gradient


@pytest.mark.parametrize(("batch_size", "side"), [(1, 16), (1, 11), (7, 16), (8, 16), (16, 11)])
def test_batches_filled_up_to_eights_agree_to_the_bit(tiny_model, class_embeds, batch_size, side):
    """Logits and input gradients of an image do not depend on how many others are in its batch."""
    pixels = torch.rand(24, 3, side, side)
    classifier = ZeroShotClassifier(tiny_model, class_embeds, batch_multiple=8)
    logits, gradient = logits_and_gradients(classifier, pixels, 24)
    some = pixels[: 3 * batch_size]
    again, gradient_again = logits_and_gradients(classifier, some, batch_size)
    assert logits.shape == (24, 3)
    assert torch.equal(logits[: len(some)], again)
    assert torch.equal(gradient[: len(some)], gradient_again)


def test_filling_up_changes_neither_logits_nor_gradients(tiny_model, class_embeds):
    pixels = torch.rand(5, 3, 16, 16)
    plain = logits_and_gradients(ZeroShotClassifier(tiny_model, class_embeds), pixels, 5)
    filled = logits_and_gradients(ZeroShotClassifier(tiny_model, class_embeds, batch_multiple=8), pixels, 5)
    for expected, got in zip(plain, filled, strict=True):
        torch.testing.assert_close(got, expected)


def test_logits_are_float32_whatever_the_weights(tiny_model, class_embeds):
    logits = ZeroShotClassifier(tiny_model.bfloat16(), class_embeds)(torch.rand(2, 3, 16, 16))
    assert logits.dtype == torch.float32


def test_the_temperature_gets_no_gradient_and_class_embeddings_are_not_saved(tiny_model, class_embeds):
    classifier = ZeroShotClassifier(tiny_model, class_embeds)
    classifier(torch.rand(2, 3, 16, 16)).sum().backward()
    assert tiny_model.logit_scale.grad is None
    assert "class_embeds" not in classifier.state_dict()


@torch.no_grad()
def test_a_class_is_the_renormalised_mean_over_its_templates(tiny_model, tiny_processor):
    embeds = embed_classes(tiny_model, tiny_processor.tokenizer, NAMES, TEMPLATES)
    assert embeds.shape == (3, 8)
    for name, embed in zip(NAMES, embeds, strict=True):
        prompts = [template.replace("{}", name) for template in TEMPLATES]
        singles = [
            F.normalize(tiny_model.encode_text(**tiny_processor.tokenizer(prompt, return_tensors="pt"))[0], dim=0)
            for prompt in prompts
        ]
        mean = sum(singles) / 3
        torch.testing.assert_close(embed, mean / mean.norm())


def test_class_embeddings_do_not_depend_on_the_batch_size(tiny_model, tiny_processor):
    whole, parts = (embed_classes(tiny_model, tiny_processor.tokenizer, NAMES, TEMPLATES, size) for size in (512, 2))
    torch.testing.assert_close(whole, parts)


def test_embedding_leaves_every_modules_mode_and_no_gradient(tiny_model, tiny_processor):
    tiny_model.train()
    tiny_model.vision_model.eval()
    before = [module.training for module in tiny_model.modules()]
    embeds = embed_classes(tiny_model, tiny_processor.tokenizer, NAMES, TEMPLATES)
    assert not embeds.requires_grad
    assert [module.training for module in tiny_model.modules()] == before
    assert len(set(before)) == 2


def test_modes_are_put_back_after_an_error(tiny_model):
    tiny_model.train()

    def broken(*args, **kwargs):
        raise RuntimeError("no tokens")

    with pytest.raises(RuntimeError, match="no tokens"):
        embed_classes(tiny_model, broken, NAMES, TEMPLATES)
    assert all(module.training for module in tiny_model.modules())


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        (["red", 3], TEMPLATES, "must be non-empty strings, got 3; quote it"),
        (["red", True], TEMPLATES, "must be non-empty strings, got True"),
        (["red", "  "], TEMPLATES, "must be non-empty strings"),
        (NAMES, ["a photo"], "needs a {} where the class name goes, got 'a photo'"),
        (NAMES, [None], "needs a {} where the class name goes, got None"),
        ([], TEMPLATES, "Need class names and templates, got 0 and 3"),
        (NAMES, [], "Need class names and templates, got 3 and 0"),
    ],
)
def test_bad_names_and_templates_are_refused(tiny_model, tiny_processor, names, templates, message):
    with pytest.raises(ValueError, match=message):
        embed_classes(tiny_model, tiny_processor.tokenizer, names, templates)


def test_a_name_with_braces_is_taken_as_it_is(tiny_model, tiny_processor):
    """Templates are filled by replacement, so braces in a name are no format specification."""
    embeds = embed_classes(tiny_model, tiny_processor.tokenizer, ["{0}", "{name}"], ["a {}"])
    assert not torch.allclose(embeds[0], embeds[1])


def test_a_prompt_longer_than_the_context_is_cut(tiny_model, tiny_processor):
    embeds = embed_classes(tiny_model, tiny_processor.tokenizer, ["word " * 200], ["a {}"])
    assert embeds.isfinite().all()
