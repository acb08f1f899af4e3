"""TTC: against a numpy twin, its degenerate forms, what an attacker's gradient is, and its passes by count."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from reference.test_time import counterattack
from robust_clip.models import TTC, Draws, ZeroShotClassifier, embed_classes

NAMES = ["red", "green", "blue"]


@pytest.fixture
def classifier(tiny_model, tiny_processor):
    embeds = embed_classes(tiny_model, tiny_processor.tokenizer, NAMES, ["a photo of a {}."])
    return ZeroShotClassifier(tiny_model, embeds, batch_multiple=8)


def behind(defence, classifier, key="0:defender", fresh=False):
    return defence.wrap(classifier, None, NAMES, Draws(key, fresh))


@pytest.mark.parametrize("threshold", [0.0, 10.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_counterattack_is_that_of_a_literal_twin(tiny_model, tiny_processor, threshold, steps):
    model = tiny_model.double()
    embeds = embed_classes(model, tiny_processor.tokenizer, NAMES, ["{}"])
    classifier = ZeroShotClassifier(model, embeds)
    classifier._features = lambda model, pixels: model.encode_image(pixels)  # in float64
    pixels = (1.4 * torch.rand(4, 3, 16, 16, dtype=torch.float64) - 0.2).clamp(0, 1)
    defence = TTC(steps=steps, threshold=threshold, epsilon="6/255", step_size="5/255")
    defended = behind(defence, classifier)
    got = defended.counterattack(pixels)
    for image, change, generator in zip(pixels, got, Draws("0:defender")(pixels), strict=True):
        clean = classifier.embed(image[None]).detach()

        def features(array):
            return classifier.embed(torch.from_numpy(array)[None]).detach().numpy()[0]

        def gradient(array, clean=clean):
            moved = torch.from_numpy(array)[None].requires_grad_()
            distance = (classifier.embed(moved) - clean).square().sum()
            return torch.autograd.grad(distance, moved)[0].numpy()[0]

        noise = (6 / 255 * (2 * torch.rand(image.shape, generator=generator) - 1)).double().numpy()
        sizes = (6 / 255, steps, 5 / 255, threshold, 2.0)
        expected = counterattack(features, gradient, image.numpy(), noise, *sizes)
        np.testing.assert_allclose(change.numpy(), expected, atol=1e-9)
    assert got.abs().max() > 1 / 255


def test_the_threshold_is_for_each_image_by_itself(classifier):
    pixels = torch.rand(6, 3, 16, 16)
    noise = behind(TTC(threshold=0), classifier).counterattack(pixels)
    pushed = behind(TTC(threshold=10), classifier).counterattack(pixels)
    moved = (classifier.embed(pixels + noise) - classifier.embed(pixels)).norm(dim=1)
    ratio = moved / classifier.embed(pixels).norm(dim=1)
    middle = ratio.sort().values[2:4].mean().item()
    below = (ratio < middle).view(-1, 1, 1, 1)
    assert below.sum() == 3
    got = behind(TTC(threshold=middle), classifier).counterattack(pixels)
    assert torch.equal(got, torch.where(below, pushed, noise))


def test_without_noise_and_steps_it_is_the_plain_classifier(classifier):
    pixels = torch.rand(5, 3, 16, 16)
    defence = TTC(epsilon=0, steps=0)
    assert torch.equal(behind(defence, classifier)(pixels), classifier(pixels))
    assert not defence.random
    assert TTC().random


def test_it_moves_features_away_and_stays_in_the_ball_and_the_box(classifier):
    pixels = (2 * torch.rand(8, 3, 16, 16) - 0.5).clamp(0, 1)
    noise = behind(TTC(steps=0), classifier).counterattack(pixels)
    change = behind(TTC(steps=4, threshold=10), classifier).counterattack(pixels)

    def distance(change):
        return (classifier.embed(pixels + change) - classifier.embed(pixels)).norm(dim=1)

    assert (distance(change) > distance(noise)).all()
    assert change.abs().max() <= 4 / 255 + 1e-7
    assert ((pixels + change >= -1e-7) & (pixels + change <= 1 + 1e-7)).all()


@pytest.mark.parametrize("fresh", [False, True])
def test_an_image_is_answered_alike_in_any_company(classifier, fresh):
    pixels = torch.rand(11, 3, 16, 16)
    together = behind(TTC(), classifier, fresh=fresh)(pixels)
    alone = behind(TTC(), classifier, fresh=fresh)
    backwards = torch.cat([alone(image[None]) for image in pixels.flip(0)]).flip(0)
    assert torch.equal(together, backwards)


def test_the_defender_repeats_itself_and_an_attacker_gets_other_draws(classifier):
    pixels = torch.rand(3, 3, 16, 16)
    defender, attacker = behind(TTC(), classifier), behind(TTC(), classifier, "0:attacker", fresh=True)
    assert torch.equal(defender(pixels), defender(pixels))
    draws = [attacker(pixels) for _ in range(3)]
    for first, second in ((draws[0], draws[1]), (draws[1], draws[2]), (draws[0], defender(pixels))):
        assert not torch.equal(first, second)
    attacker.draws.restart()
    assert torch.equal(attacker(pixels), draws[0])
    assert not torch.equal(behind(TTC(), classifier, "1:defender")(pixels), defender(pixels))


def test_the_gradient_is_that_at_the_counterattacked_image(classifier):
    """Straight through, at the faces of the box, too; and nothing else of the model is touched."""
    pixels = (2 * torch.rand(4, 3, 16, 16) - 0.5).clamp(0, 1)
    labels, defended = torch.tensor([0, 1, 2, 0]), behind(TTC(), classifier)
    flags = [parameter.requires_grad for parameter in classifier.parameters()]
    pushed = (pixels + defended.counterattack(pixels)).requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(classifier(pushed), labels), pushed)
    asked = pixels.clone().requires_grad_()
    (got,) = torch.autograd.grad(F.cross_entropy(defended(asked), labels), asked)
    assert torch.equal(got, expected)
    assert got.abs().max() > 0
    assert flags == [parameter.requires_grad for parameter in classifier.parameters()]
    assert all(parameter.grad is None for parameter in classifier.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_answers_alike_without_gradients(classifier, mode):
    pixels = torch.rand(2, 3, 16, 16)
    expected = behind(TTC(), classifier)(pixels)
    with mode():
        assert torch.equal(behind(TTC(), classifier)(pixels.clone()), expected)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_it_takes_the_passes_that_it_says(classifier, steps):
    seen = {"image_forward": 0, "image_backward": 0}

    def count(module, inputs, output):
        seen["image_forward"] += len(output.pooler_output)
        if output.pooler_output.requires_grad:
            output.pooler_output.register_hook(counted_backward)

    def counted_backward(gradient):
        seen["image_backward"] += len(gradient)

    handle = classifier.model.vision_model.register_forward_hook(count)
    with torch.no_grad():
        behind(TTC(steps=steps), classifier)(torch.rand(8, 3, 16, 16))
    handle.remove()
    said = TTC(steps=steps).passes(3)
    assert seen == {"image_forward": 8 * said.image_forward, "image_backward": 8 * said.image_backward}
    assert (said.text_forward, said.text_backward) == (0, 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilon": 4}, "did you mean 4/255"),
        ({"step_size": 1.5}, "did you mean 1.5/255"),
        ({"steps": -1}, "whole number from 0 on, got -1"),
        ({"steps": 1.0}, "whole number from 0 on, got 1.0"),
        ({"threshold": -0.1}, "must not be negative"),
    ],
)
def test_a_value_that_means_nothing_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TTC(**wrong)
