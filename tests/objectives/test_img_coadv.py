"""ImgCoAdv: adversarial images against the clean images of the batch, without text."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from originals import learned
from reference import class_prompts
from reference.differences import central_differences
from robust_clip.attacks import PGD, sample_generators
from robust_clip.objectives import ImgCoAdv
from robust_clip.objectives.img_coadv import view_contrast
from robust_clip.threat_model import ThreatModel


@pytest.fixture
def batch(batch):
    """Images alone."""
    return replace(batch, class_embeds=None, labels=torch.full((6,), -1), input_ids=None, text_index=None)


def twin(adversarial, clean, scale):
    """TeCoA's twin with clean images for classes, of which each has its own."""
    return class_prompts.cross_entropy(class_prompts.class_logits(adversarial, clean, scale), np.arange(len(clean)))


@pytest.mark.parametrize("temperature", [None, 0.2])
def test_the_loss_is_its_twin(tiny_model, batch, temperature):
    loss = ImgCoAdv(temperature=temperature)(tiny_model, None, batch)["img_coadv"]
    scale = 1 / temperature if temperature else tiny_model.logit_scale.exp().item()
    views = (tiny_model.encode_image(pixels).detach().double().numpy() for pixels in (batch.adversarial, batch.pixels))
    assert loss.item() == pytest.approx(twin(*views, scale), rel=1e-5)


def test_view_contrast_has_the_gradient_of_its_twin_by_both_views():
    arrays = np.random.default_rng(0).normal(size=(2, 4, 5))
    leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
    loss = view_contrast(*leaves, 6.0).mean()
    loss.backward()
    assert loss.item() == pytest.approx(twin(*arrays, 6.0), rel=1e-5)
    for leaf, numeric in zip(
        leaves,
        (
            central_differences(lambda x: twin(x, arrays[1], 6.0), arrays[0]),
            central_differences(lambda x: twin(arrays[0], x, 6.0), arrays[1]),
        ),
        strict=True,
    ):
        np.testing.assert_allclose(leaf.grad.numpy(), numeric, rtol=1e-4, atol=1e-5)


def test_it_is_low_where_views_agree_and_at_chance_where_all_images_are_one():
    features = torch.linalg.qr(torch.randn(6, 6))[0]
    assert view_contrast(features, features, 100.0).max() < 1e-6
    same = features[:1].expand(6, -1)
    torch.testing.assert_close(view_contrast(same, same, 100.0), torch.full((6,), 6.0).log())
    assert view_contrast(features[:1], features[1:2], 100.0).item() == 0


def test_the_attack_climbs_the_loss_of_each_image(tiny_model, batch):
    objective = ImgCoAdv(temperature=0.1)
    forward, loss = objective.inner_problem(tiny_model, None, batch)
    losses = loss(forward(batch.adversarial))
    torch.testing.assert_close(losses.mean(), objective(tiny_model, None, batch)["img_coadv"])
    kept = torch.tensor([4, 1])
    torch.testing.assert_close(loss[kept](forward(batch.adversarial[kept])), losses[kept])
    assert not forward.class_embeds.requires_grad


def test_the_attack_finds_images_that_are_taken_for_others(tiny_model, batch):
    forward, loss = ImgCoAdv().inner_problem(tiny_model, None, batch)
    found = PGD(steps=10)(forward, batch.pixels, loss, ThreatModel("linf", "16/255"), sample_generators(0, range(6)))
    assert (loss(forward(found)) > loss(forward(batch.pixels))).all()


def test_the_clean_views_of_the_attack_are_made_in_eval_mode(tiny_model, batch):
    seen = []
    tiny_model.train().visual_projection.register_forward_hook(lambda *_: seen.append(tiny_model.training))
    ImgCoAdv().inner_problem(tiny_model, None, batch)
    assert seen == [False]
    assert tiny_model.training


def test_both_views_learn(tiny_model, batch):
    """The gradient is that of the pure function through two passes, of which a constant view would give another."""
    weight = tiny_model.visual_projection.weight
    (found,) = torch.autograd.grad(ImgCoAdv()(tiny_model, None, batch)["img_coadv"], weight)
    scale = tiny_model.logit_scale.exp()
    gradients = []
    for constant in (False, True):
        adversarial, clean = (tiny_model.encode_image(pixels) for pixels in (batch.adversarial, batch.pixels))
        loss = view_contrast(adversarial, clean.detach() if constant else clean, scale).mean()
        gradients += torch.autograd.grad(loss, weight)
    torch.testing.assert_close(found, gradients[0])
    assert (gradients[1] - gradients[0]).abs().max() > 0.1 * gradients[0].abs().max()


def test_only_the_image_tower_learns(tiny_model, batch):
    ImgCoAdv()(tiny_model, None, batch)["img_coadv"].backward()
    assert learned(tiny_model)
    assert not any(name.startswith("text") for name in learned(tiny_model))


def test_a_temperature_of_0_is_refused():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        ImgCoAdv(temperature=0)
