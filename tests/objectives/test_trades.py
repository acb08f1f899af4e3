"""TRADES: cross-entropy of clean images, divergence of adversarial predictions from clean ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from originals import before_projection, learned, loss_and_gradients, same_bits, twin_logits
from reference import class_prompts
from reference.clean_and_adversarial import trades
from reference.differences import central_differences
from robust_clip.attacks import PGD, sample_generators
from robust_clip.objectives import TRADES, Clean, adaptive_problem
from robust_clip.objectives.trades import PredictionDivergence
from robust_clip.threat_model import ThreatModel


@pytest.mark.parametrize("temperature", [None, 0.02])
def test_every_term_is_its_twin(tiny_model, batch, temperature):
    terms = TRADES(beta=3.0, temperature=temperature)(tiny_model, None, batch)
    scale = 1 / temperature if temperature else tiny_model.logit_scale.exp().item()
    clean, adversarial = (twin_logits(tiny_model, each, batch, scale) for each in (batch.pixels, batch.adversarial))
    want = trades(clean, adversarial, batch.labels.tolist(), 3.0)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(want, rel=1e-5)
    assert want["divergence"] > 1e-4


def test_beta_of_0_is_clean_fine_tuning_to_the_bit_and_needs_no_attack(tiny_model, batch):
    off = TRADES(beta=0)
    assert same_bits(*(loss_and_gradients(each, tiny_model, None, batch) for each in (off, Clean())))
    assert (off.needs_attack, off.student_passes, off.teacher_passes) == (False, 1, 0)
    assert (TRADES().needs_attack, TRADES().student_passes, TRADES().teacher_passes) == (True, 2, 1)


def test_without_a_perturbation_only_the_clean_term_is_left(tiny_model, batch):
    still = replace(batch, adversarial=batch.pixels)
    with_it, without = (loss_and_gradients(TRADES(beta=b), tiny_model, None, still) for b in (6.0, 0.0))
    for name, value in without.items():
        torch.testing.assert_close(with_it[name], value)


def test_the_clean_prediction_learns_of_the_divergence_unless_detached(tiny_model, batch):
    """Its twin with a clean prediction that stays, and one whose changes count."""
    one = batch[torch.tensor([0])]
    weight = tiny_model.visual_projection.weight
    before = weight.detach().double().numpy().copy()
    pooled = [before_projection(tiny_model, pixels) for pixels in (one.pixels, one.adversarial)]
    scale, embeds = tiny_model.logit_scale.exp().item(), one.class_embeds.double().numpy()

    def divergence(moving, detached):
        clean, adversarial = (
            class_prompts.class_logits(each @ matrix.T, embeds, scale)
            for each, matrix in zip(pooled, (before if detached else moving, moving), strict=True)
        )
        return trades(clean, adversarial, one.labels.tolist(), 6.0)["divergence"]

    for detached in (True, False):
        tiny_model.zero_grad()
        TRADES(detach_clean=detached)(tiny_model, None, one)["divergence"].backward()
        numeric = central_differences(lambda m, fixed=detached: divergence(m, fixed), before)
        np.testing.assert_allclose(weight.grad.numpy(), numeric, rtol=1e-3, atol=1e-5)


def test_the_attack_climbs_the_divergence_from_the_clean_prediction(tiny_model, batch):
    objective = TRADES(temperature=0.2)
    forward, loss = objective.inner_problem(tiny_model, None, batch)
    losses = loss(forward(batch.adversarial))
    torch.testing.assert_close(6 * losses.mean(), objective(tiny_model, None, batch)["divergence"])
    assert loss(forward(batch.pixels)).abs().max() < 1e-6
    assert loss.fooled(forward(batch.pixels)) is None
    kept = torch.tensor([4, 1])
    torch.testing.assert_close(loss[kept](forward(batch.adversarial[kept])), losses[kept])
    assert not loss.reference.requires_grad


def test_the_attack_needs_its_random_start(tiny_model, batch):
    allowed = ThreatModel("linf", "8/255")
    forward, loss = TRADES().inner_problem(tiny_model, None, batch)
    losses = {}
    for start in (True, False):
        attack = PGD(steps=5, step_size="2/255", random_start=start)
        found = attack(forward, batch.pixels, loss, allowed, sample_generators(0, range(6)))
        losses[start] = loss(forward(found))
    random = loss(forward(allowed.random_start(batch.pixels, sample_generators(0, range(6)))))
    assert (losses[True] > 3 * random).all()
    assert losses[True].mean() > losses[False].mean()


def test_the_clean_prediction_of_the_attack_is_made_in_eval_mode(tiny_model, batch):
    seen = []
    tiny_model.train().visual_projection.register_forward_hook(lambda *_: seen.append(tiny_model.training))
    TRADES().inner_problem(tiny_model, None, batch)
    assert seen == [False]
    assert tiny_model.training


def test_the_divergence_climbed_has_the_gradient_of_its_twin():
    clean, adversarial = np.random.default_rng(0).normal(size=(2, 4, 3))
    leaf = torch.tensor(adversarial, requires_grad=True)
    PredictionDivergence(torch.tensor(clean))(leaf).sum().backward()
    numeric = central_differences(lambda x: 4 * trades(clean, x, [0] * 4, 1.0)["divergence"], adversarial)
    np.testing.assert_allclose(leaf.grad.numpy(), numeric, rtol=1e-4, atol=1e-6)


def test_one_class_leaves_nothing_and_single_images_add_up(tiny_model, batch):
    one = replace(batch, class_embeds=batch.class_embeds[:1], labels=torch.zeros(6).long())
    assert [term.item() for term in TRADES()(tiny_model, None, one).values()] == [0, 0]
    forward, loss = adaptive_problem(TRADES(), tiny_model, None, batch)
    torch.testing.assert_close(
        loss(forward(batch.adversarial)).mean(), sum(TRADES()(tiny_model, None, batch).values())
    )


def test_only_the_image_tower_learns(tiny_model, batch):
    batch.class_embeds.requires_grad_()
    sum(TRADES()(tiny_model, None, batch).values()).backward()
    assert not any(name.startswith("text") for name in learned(tiny_model))


def test_mistakes_are_refused(tiny_model, batch):
    with pytest.raises(ValueError, match="beta must not be negative, got -1"):
        TRADES(beta=-1)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        TRADES(temperature=0)
    without = replace(batch, class_embeds=None)
    with pytest.raises(ValueError, match="TRADES needs class labels"):
        TRADES()(tiny_model, None, without)
    with pytest.raises(ValueError, match="The attack of TRADES needs class labels"):
        TRADES().inner_problem(tiny_model, None, without)
