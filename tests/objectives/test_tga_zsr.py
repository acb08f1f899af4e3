"""TGA-ZSR: attention maps of the student, attacked and clean, near the original's of the clean image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling

from originals import another, learned, loss_and_gradients, mean_of_single_images, same_bits, twin_logits
from reference import attention_maps, class_prompts
from reference.differences import central_differences
from robust_clip.objectives import TeCoA
from robust_clip.objectives.tga_zsr import TGAZSR, attention_map, encode_tokens, map_distance, upsample_map

NORMS, DISTANCES = ["feature", "across_tokens", "none"], ["l2", "l1", "cosine"]


@torch.no_grad()
def twin_maps(objective, model, pixels, batch):
    """Attention of each image by the twin, from the tokens that the model gives."""
    tokens, texts = model.encode_image_tokens(pixels).double().numpy(), batch.class_embeds.double().numpy()
    pairs = zip(tokens, texts[batch.labels.numpy()], strict=True)
    maps = [attention_maps.attention_map(each, text, objective.token_norm) for each, text in pairs]
    return [attention_maps.upsample(each, 16) for each in maps] if objective.upsample else maps


@pytest.mark.parametrize("upsample", [True, False])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("token_norm", NORMS)
def test_every_term_is_its_twin(tiny_model, teacher, batch, token_norm, distance, upsample):
    objective = TGAZSR(0.7, 0.3, distance=distance, token_norm=token_norm, upsample=upsample)
    terms = objective(tiny_model, teacher, batch)
    reference = twin_maps(objective, teacher, batch.pixels, batch)

    def far(pixels):
        maps = twin_maps(objective, tiny_model, pixels, batch)
        return np.mean([attention_maps.distance(a, b, distance) for a, b in zip(maps, reference, strict=True)])

    logits = twin_logits(tiny_model, batch.adversarial, batch, tiny_model.logit_scale.exp().item())
    twin = {
        "cross_entropy": class_prompts.cross_entropy(logits, batch.labels),
        "refinement": 0.7 * far(batch.adversarial),
        "constraint": 0.3 * far(batch.pixels),
    }
    # Bringing a map to [0, 1] divides by its small range, and so magnifies the rounding of fp32.
    found = {name: term.item() for name, term in terms.items()}
    assert found == pytest.approx(twin, rel=1e-4)
    assert found == pytest.approx(twin, abs=1e-5, rel=1e-5)
    assert min(twin.values()) > 1e-3


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("token_norm", NORMS)
def test_maps_and_distances_are_their_twins_on_random_tokens(token_norm, distance):
    random = np.random.default_rng(0)
    tokens, other = random.normal(size=(2, 4, 10, 6))
    texts = random.normal(size=(4, 6))
    maps = [attention_map(torch.tensor(each), torch.tensor(texts), token_norm) for each in (tokens, other)]
    twins = [
        [attention_maps.attention_map(t, text, token_norm) for t, text in zip(each, texts, strict=True)]
        for each in (tokens, other)
    ]
    for ours, theirs in zip(maps, twins, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)
    expected = [attention_maps.distance(*pair, distance) for pair in zip(*twins, strict=True)]
    np.testing.assert_allclose(map_distance(*maps, distance).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(("patches", "side"), [(2, 16), (7, 32), (3, 9), (1, 4)])
def test_upsampling_is_its_twin(patches, side):
    attention = np.random.default_rng(0).random((2, patches**2))
    expected = [attention_maps.upsample(each, side).ravel() for each in attention]
    np.testing.assert_allclose(upsample_map(torch.tensor(attention), side).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("token_norm", NORMS)
def test_a_map_is_brought_to_0_and_1_and_its_scale_does_not_matter(token_norm):
    tokens, texts = torch.randn(4, 10, 6), torch.randn(4, 6)
    attention = attention_map(tokens, texts, token_norm)
    assert attention.amin(dim=1).eq(0).all()
    torch.testing.assert_close(attention.amax(dim=1), torch.ones(4))
    torch.testing.assert_close(attention_map(3 * tokens, 100 * texts, token_norm), attention, rtol=0, atol=1e-4)


def test_a_map_without_relief_is_0_with_a_finite_gradient():
    tokens = torch.ones(2, 5, 3, requires_grad=True)
    attention = attention_map(tokens, torch.ones(2, 3))
    assert not attention.any()
    map_distance(attention, torch.zeros_like(attention)).sum().backward()
    assert tokens.grad.isfinite().all()


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("token_norm", NORMS)
def test_gradient_through_the_map(token_norm, distance):
    random = np.random.default_rng(1)
    tokens, text, reference = random.normal(size=(5, 3)), random.normal(size=3), random.random(16)
    leaf = torch.tensor(tokens, requires_grad=True)
    attention = upsample_map(attention_map(leaf[None], torch.tensor(text)[None], token_norm), 4)
    map_distance(attention, torch.tensor(reference)[None].float(), distance).sum().backward()

    def twin(moved):
        fine = attention_maps.upsample(attention_maps.attention_map(moved, text, token_norm), 4)
        return attention_maps.distance(fine, reference, distance)

    np.testing.assert_allclose(leaf.grad.numpy(), central_differences(twin, tokens), rtol=1e-3, atol=1e-5)


def test_weights_of_0_give_tecoa_to_the_bit(tiny_model, teacher, batch):
    results = [loss_and_gradients(each, tiny_model, teacher, batch) for each in (TGAZSR(0, 0), TeCoA())]
    assert same_bits(*results)


@pytest.mark.parametrize("distance", DISTANCES)
def test_an_original_that_is_the_student_and_no_attack_leave_tecoa(tiny_model, batch, distance):
    still, same = replace(batch, adversarial=batch.pixels), another(tiny_model, size=0)
    result = loss_and_gradients(TGAZSR(distance=distance), tiny_model, same, still)
    torch.testing.assert_close(result["loss"], TeCoA()(tiny_model, None, still)["tecoa"].detach())
    assert all(value.isfinite().all() for value in result.values())


def test_the_class_token_gives_the_logits(tiny_model, batch):
    """Row 0 of the tokens is the image's feature, so one pass is enough."""
    tokens = encode_tokens(tiny_model, batch.pixels)
    assert tokens.shape == (6, 5, 8)
    torch.testing.assert_close(tokens[:, 0], tiny_model.encode_image(batch.pixels))


def test_the_original_is_never_taught(tiny_model, teacher, batch):
    batch.class_embeds.requires_grad_()
    loss_and_gradients(TGAZSR(), tiny_model, teacher, batch)
    assert learned(teacher) == set()
    assert all(name.startswith(("vision_model.", "visual_projection.", "logit_scale")) for name in learned(tiny_model))


def test_one_image_alone_has_the_loss_that_it_has_in_a_batch(tiny_model, teacher, batch):
    alone = mean_of_single_images(TGAZSR(), tiny_model, teacher, batch)
    torch.testing.assert_close(alone, TGAZSR()(tiny_model, teacher, batch), rtol=1e-4, atol=1e-6)


def test_the_attack_climbs_cross_entropy(tiny_model, teacher, batch):
    forward, loss = TGAZSR().inner_problem(tiny_model, teacher, batch)
    expected = F.cross_entropy(forward(batch.adversarial), batch.labels)
    torch.testing.assert_close(loss(forward(batch.adversarial)).mean(), expected)


class WithoutTokens(nn.Module):
    """A tower that pools its patches away."""

    def encode_image_tokens(self, pixels):
        return pixels.mean(dim=(2, 3)).unsqueeze(1)


def test_a_model_without_patch_tokens_is_refused(tiny_model, batch):
    with pytest.raises(ValueError, match=r"needs patch tokens.*WithoutTokens yields tokens of shape \(6, 1, 3\)"):
        encode_tokens(WithoutTokens(), batch.pixels)
    with pytest.raises(ValueError, match="Linear has no encode_image_tokens"):
        encode_tokens(nn.Linear(1, 1), batch.pixels)
    tiny_model.vision_model.forward = lambda **_: BaseModelOutputWithPooling(pooler_output=torch.zeros(6, 16))
    with pytest.raises(ValueError, match="yields no tokens, as a vision transformer does"):
        encode_tokens(tiny_model, batch.pixels)
    with pytest.raises(ValueError, match="6 patch tokens are no square grid"):
        upsample_map(torch.rand(2, 6), 16)


def test_mistakes_are_refused(tiny_model, teacher, batch):
    for wrong, message in (
        ({"beta": -0.05}, "beta must not be negative"),
        ({"distance": "kl"}, "distance must be one of l2, l1, cosine, got 'kl'"),
        ({"token_norm": "dim1"}, "token_norm must be one of feature, across_tokens, none"),
    ):
        with pytest.raises(ValueError, match=message):
            TGAZSR(**wrong)
    with pytest.raises(ValueError, match="TGAZSR compares with the frozen original"):
        TGAZSR()(tiny_model, None, batch)
    with pytest.raises(ValueError, match="TGAZSR needs class labels"):
        TGAZSR()(tiny_model, teacher, replace(batch, class_embeds=None))
