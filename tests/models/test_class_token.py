"""The last block without the tokens that nobody reads: the same features and gradients, and the model as it was."""

import pytest
import torch

from robust_clip.adaptation import LoRA, Prompts
from robust_clip.models.class_token import class_token_alone

PIXELS = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def features_and_gradient(model):
    pixels = PIXELS.clone().requires_grad_()
    features = model.encode_image(pixels)
    (gradient,) = torch.autograd.grad(features.square().sum(), pixels)
    return features.detach(), gradient


@pytest.mark.parametrize("adaptation", [None, LoRA(r=2), Prompts(frame=3), Prompts(tokens=2)], ids=str)
def test_features_and_gradients_are_the_same(tiny_model, adaptation):
    model = tiny_model if adaptation is None else adaptation.apply(tiny_model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)
    model.eval()
    whole = features_and_gradient(model)
    with class_token_alone(model):
        alone = features_and_gradient(model)
    assert whole[1].abs().max() > 1e-3
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(*pair) for pair in zip(features_and_gradient(model), whole, strict=True))


def test_the_other_tokens_end_before_the_last_mlp(tiny_model):
    seen = []
    for block in tiny_model.vision_model.encoder.layers:
        block.mlp.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    with class_token_alone(tiny_model):
        tiny_model.encode_image(PIXELS)
    tiny_model.encode_image(PIXELS)
    assert seen == [5, 1, 5, 5]


def test_a_forward_of_another_library_comes_back(tiny_model):
    last = tiny_model.vision_model.encoder.layers[-1]
    own = last.forward = lambda *args, **kwargs: type(last).forward(last, *args, **kwargs)

    def fail():
        with class_token_alone(tiny_model):
            assert last.forward is not own
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert last.forward is own
