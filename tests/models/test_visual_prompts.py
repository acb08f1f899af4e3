"""Learned pixels and tokens: where they are added, and that attacks see them."""

import numpy as np
import pytest
import torch

from reference.prompt_learning import pixel_frame
from robust_clip.attacks import PGD, CrossEntropy, sample_generators
from robust_clip.models import PromptedCLIPModel, PromptSizes, ZeroShotClassifier, embed_classes
from robust_clip.models.visual_prompts import PixelFrame
from robust_clip.threat_model import ThreatModel

NAMES = ["red", "green", "blue"]
ALL = PromptSizes(frame=3, patch=5, tokens=2, depth=2)


@torch.no_grad()
def literal_tokens(model, pixel_values):
    """Every token of the image, by going through the blocks one by one with prompts put in as VPT writes it."""
    tower, stock = model.vision_model, model.as_base().vision_model
    count = tower.embeddings.tokens.shape[0]
    hidden = torch.cat([stock.embeddings(pixel_values), tower.embeddings.tokens.expand(len(pixel_values), -1, -1)], 1)
    hidden = stock.pre_layrnorm(hidden)
    for number, layer in enumerate(stock.encoder.layers):
        if tower.encoder.prompts is not None and 0 < number <= len(tower.encoder.prompts):
            fresh = tower.encoder.prompts[number - 1].expand(len(pixel_values), -1, -1)
            hidden = torch.cat([hidden[:, :-count], fresh], dim=1)
        hidden = layer(hidden, None)
    return stock.post_layernorm(hidden[:, :-count]) @ model.visual_projection.weight.T


def test_a_frame_is_its_twin_with_zeros_inside():
    frame = PixelFrame(3, 16)
    strips = (strip.detach().numpy()[0] for strip in (frame.up, frame.down, frame.left, frame.right))
    made = frame().detach()
    np.testing.assert_array_equal(made[0].numpy(), pixel_frame(*strips).astype(np.float32))
    assert not made[0, :, 3:13, 3:13].any()
    assert made.count_nonzero() == 3 * (16 * 16 - 10 * 10)
    assert sum(p.numel() for p in frame.parameters()) == made.count_nonzero()


@torch.no_grad()
def test_pixels_are_added_after_normalising_and_not_clamped(tiny_model):
    model = PromptedCLIPModel.around(tiny_model, PromptSizes(frame=3, patch=5))
    embeddings, pixels = model.vision_model.embeddings, torch.rand(2, 3, 16, 16)
    embeddings.frame.up.fill_(40.0)
    seen = []
    embeddings.patch_embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.encode_image(pixels)
    added = seen[0] - tiny_model.preprocess(pixels)
    corner = torch.zeros(1, 3, 16, 16)
    corner[..., :5, :5] = embeddings.patch
    torch.testing.assert_close(added, (embeddings.frame() + corner).expand(2, -1, -1, -1), atol=1e-5, rtol=0)
    assert seen[0].max() > 35


@pytest.mark.parametrize("depth", [1, 2])
@torch.no_grad()
def test_tokens_are_those_of_a_literal_forward(tiny_model, depth):
    """Replaced in each of the first layers, and left out of what the tower gives."""
    model = PromptedCLIPModel.around(tiny_model, PromptSizes(tokens=3, depth=depth))
    pixels = torch.rand(2, 3, 16, 16)
    expected = literal_tokens(model, model.preprocess(pixels))
    assert expected.shape == (2, 1 + 4, 8)
    torch.testing.assert_close(model.encode_image_tokens(pixels), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.encode_image(pixels), expected[:, 0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model.encode_image(pixels), tiny_model.encode_image(pixels), atol=1e-3)


@torch.no_grad()
def test_each_layer_reads_its_own_tokens(tiny_model):
    model = PromptedCLIPModel.around(tiny_model, PromptSizes(tokens=3, depth=2))
    seen = []
    for layer in model.vision_model.encoder.layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, -3:]))
    model.encode_image(torch.rand(2, 3, 16, 16))
    assert torch.equal(seen[1], model.vision_model.encoder.prompts[0].expand(2, -1, -1))


@torch.no_grad()
def test_pixels_of_zero_and_no_tokens_are_stock_clip(tiny_model):
    model = PromptedCLIPModel.around(tiny_model, PromptSizes(frame=3, patch=5))
    for _, prompt in model.prompts():
        prompt.zero_()
    pixels = torch.rand(2, 3, 16, 16)
    assert torch.equal(model.encode_image_tokens(pixels), tiny_model.encode_image_tokens(pixels))


def test_an_attack_differentiates_through_the_prompts(tiny_model, tiny_processor):
    """Against difference quotients, and against the gradient that a model without prompts has."""
    model = PromptedCLIPModel.around(tiny_model, ALL).requires_grad_(False)
    classifier = ZeroShotClassifier(model, embed_classes(model, tiny_processor.tokenizer, NAMES, ["{}."]))
    pixels = (0.25 + torch.rand(1, 3, 16, 16) / 2).requires_grad_()
    loss = CrossEntropy(torch.tensor([1]))
    (gradient,) = torch.autograd.grad(loss(classifier(pixels)).sum(), pixels)
    direction = gradient.sign()
    with torch.no_grad():
        ahead, behind = (loss(classifier(pixels + sign * 1e-3 * direction)).item() for sign in (1, -1))
    assert (gradient * direction).sum().item() == pytest.approx((ahead - behind) / 2e-3, rel=1e-2)
    plain = ZeroShotClassifier(tiny_model, classifier.class_embeds)
    (other,) = torch.autograd.grad(loss(plain(pixels)).sum(), pixels)
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), other.flatten(), dim=0) < 0.9


def test_an_attack_on_prompts_leaves_them_without_gradient(tiny_model, tiny_processor):
    model = PromptedCLIPModel.around(tiny_model, ALL)
    classifier = ZeroShotClassifier(model, embed_classes(model, tiny_processor.tokenizer, NAMES, ["{}."]))
    pixels, loss = torch.rand(4, 3, 16, 16), CrossEntropy(torch.tensor([0, 1, 2, 0]))
    generators = sample_generators(0, range(4))
    found = PGD(steps=5)(classifier, pixels, loss, ThreatModel("linf", "16/255"), generators)
    assert (loss(classifier(found)) > loss(classifier(pixels))).all()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_only_prompts_learn_and_all_of_them(tiny_model):
    model = PromptedCLIPModel.around(tiny_model, ALL)
    model.requires_grad_(False)
    for _, prompt in model.prompts():
        prompt.requires_grad_(True)
    model.encode_image(torch.rand(2, 3, 16, 16)).square().sum().backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert learned == {name for name, _ in model.prompts()}
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


@pytest.mark.parametrize("sizes", [ALL, PromptSizes(context=3, depth=2)], ids=["vision", "text"])
def test_gradient_checkpointing_changes_nothing(tiny_model, tiny_processor, sizes):
    gradients = []
    for checkpointing in (False, True):
        model = PromptedCLIPModel.around(tiny_model, sizes).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        tokens = tiny_processor.tokenizer(["red.", "a long blue text."], padding=True, return_tensors="pt")
        features = model.encode_image(torch.full((2, 3, 16, 16), 0.3)), model.encode_text(**tokens)
        sum(feature.square().sum() for feature in features).backward()
        gradients.append([prompt.grad.clone() for _, prompt in model.prompts()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert gradients[0][-1].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_prompts_follow_the_precision_of_the_model(tiny_model, tiny_processor, dtype):
    model = PromptedCLIPModel.around(tiny_model, PromptSizes(frame=3, patch=5, tokens=2, context=3, depth=2))
    pixels, tokens = torch.rand(2, 3, 16, 16), tiny_processor.tokenizer(["red."], return_tensors="pt")
    exact = model.encode_image(pixels), model.encode_text(**tokens)
    model.to(dtype)
    for features, full in zip((model.encode_image(pixels), model.encode_text(**tokens)), exact, strict=True):
        assert features.dtype == dtype
        torch.testing.assert_close(features.float(), full, atol=0.1, rtol=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.float().encode_image(pixels).isfinite().all()


def test_images_of_another_size_are_refused_where_pixels_are_added(tiny_model):
    model = PromptedCLIPModel.around(tiny_model, PromptSizes(frame=3))
    with pytest.raises(ValueError, match=r"pixels of \(16, 16\) cannot be added to images of \(24, 24\)"):
        model.get_image_features(torch.rand(1, 3, 24, 24), interpolate_pos_encoding=True)
