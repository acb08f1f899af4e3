"""From pixels to features: what stock CLIP computes, differentiably."""

import numpy as np
import pytest
import torch
from PIL import Image

SIDES = [5, 8, 11, 15, 17, 24, 40, 100]


def as_pixels(*arrays):
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def noise(side, seed=0):
    """Half of the image grey levels at random, half black and white: edges make bicubic interpolation overshoot."""
    array = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    array[: side // 2] = (array[: side // 2] > 127) * 255
    return array


def test_images_of_the_models_size_are_processed_exactly_as_by_the_processor(tiny_model, tiny_processor):
    arrays = [noise(16, seed) for seed in range(3)]
    expected = tiny_processor.image_processor([Image.fromarray(array) for array in arrays], return_tensors="pt")
    assert torch.equal(tiny_model.preprocess(as_pixels(*arrays)), expected["pixel_values"])


@pytest.mark.parametrize("side", SIDES)
def test_resizing_is_pillows_up_to_its_rounding(tiny_model, tiny_processor, side):
    """Pillow rounds to 8 bits after each of two passes."""
    array = noise(side)
    expected = tiny_processor.image_processor(Image.fromarray(array), return_tensors="pt")["pixel_values"]
    std = torch.tensor(tiny_model.config.image_std).view(3, 1, 1)
    levels = (tiny_model.preprocess(as_pixels(array)) - expected) * std * 255
    assert levels.abs().max() < 1.2
    assert levels.abs().mean() < 0.5


@pytest.mark.parametrize("side", SIDES)
def test_gradients_reach_every_pixel_of_the_images_own_grid(tiny_model, side):
    pixels = (0.25 + torch.rand(2, 3, side, side) / 2).requires_grad_()
    tiny_model.encode_image(pixels).square().sum().backward()
    assert pixels.grad.isfinite().all()
    assert (pixels.grad != 0).all()


def test_resizing_has_the_gradient_of_what_it_computes(tiny_model):
    """Central differences of a sum of `pixel_values`, on a grid that is not the model's."""
    pixels = (0.25 + torch.rand(1, 3, 11, 11) / 2).requires_grad_()
    weights, direction = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 11, 11)
    (gradient,) = torch.autograd.grad((tiny_model.preprocess(pixels) * weights).sum(), pixels)
    with torch.no_grad():
        ahead, behind = (tiny_model.preprocess(pixels + sign * 1e-2 * direction) for sign in (1, -1))
    numeric = ((ahead - behind).double() * weights).sum() / 2e-2
    assert (gradient * direction).sum().item() == pytest.approx(numeric.item(), rel=1e-3)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 1, 16, 16), (2, 3, 16, 20), (2, 16, 16, 3)])
def test_what_is_not_a_batch_of_square_colour_images_is_refused(tiny_model, shape):
    with pytest.raises(ValueError, match=r"must have shape \(batch, 3, side, side\), got .*crop images"):
        tiny_model.preprocess(torch.rand(shape))


def test_pixels_are_cast_to_the_precision_of_the_weights(tiny_model):
    assert tiny_model.bfloat16().preprocess(torch.rand(1, 3, 8, 8)).dtype == torch.bfloat16


def test_encoders_give_the_projected_features_of_stock_clip(tiny_model, tiny_processor):
    pixels = torch.rand(2, 3, 16, 16)
    tokens = tiny_processor.tokenizer(["a photo of a red", "blue"], padding=True, return_tensors="pt")
    with torch.no_grad():
        stock = tiny_model(pixel_values=tiny_model.preprocess(pixels), **tokens)
        images, texts = tiny_model.encode_image(pixels), tiny_model.encode_text(**tokens)
    assert images.shape == (2, 8)
    torch.testing.assert_close(torch.nn.functional.normalize(images, dim=-1), stock.image_embeds)
    torch.testing.assert_close(torch.nn.functional.normalize(texts, dim=-1), stock.text_embeds)
    assert not torch.allclose(images.norm(dim=-1), torch.ones(2))


@torch.no_grad()
def test_the_first_image_token_is_the_image_and_the_others_are_projected_alike(tiny_model):
    pixels = torch.rand(2, 3, 16, 16)
    tokens = tiny_model.encode_image_tokens(pixels)
    assert tokens.shape == (2, 1 + 4, 8)
    torch.testing.assert_close(tokens[:, 0], tiny_model.encode_image(pixels))
    hidden = tiny_model.vision_model(tiny_model.preprocess(pixels)).last_hidden_state
    centred = hidden - hidden.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + tiny_model.vision_model.post_layernorm.eps).sqrt()
    torch.testing.assert_close(tokens, normed @ tiny_model.visual_projection.weight.T, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_text_has_the_same_features_alone_and_padded(tiny_model, tiny_processor):
    texts = ["red", "a photo of a very long green sentence"]
    together = tiny_model.encode_text(**tiny_processor.tokenizer(texts, padding=True, return_tensors="pt"))
    alone = tiny_model.encode_text(**tiny_processor.tokenizer(texts[:1], return_tensors="pt"))
    torch.testing.assert_close(together[:1], alone)


def test_forward_runs_what_it_is_given_on_the_model(tiny_model):
    assert tiny_model(compute=lambda model: model) is tiny_model


def test_image_size_is_the_side_of_the_vision_towers_input(tiny_model):
    assert tiny_model.image_size == 16
    tiny_model.config.vision_config.image_size = [32, 32]
    assert tiny_model.image_size == 32
