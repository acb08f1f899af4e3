"""Adv: TeCoA with a fixed random head in the place of text."""

from dataclasses import replace

import pytest
import torch

from originals import learned, loss_and_gradients, same_bits
from reference import class_prompts
from robust_clip.objectives import Adv, TeCoA, adaptive_problem
from robust_clip.objectives.adv import orthonormal_head


@pytest.mark.parametrize("temperature", [None, 0.1])
def test_the_loss_is_the_twin_of_tecoa_over_the_head(tiny_model, batch, temperature):
    loss = Adv(seed=3, temperature=temperature)(tiny_model, None, batch)["adv"]
    features = tiny_model.encode_image(batch.adversarial).detach().double().numpy()
    scale = 1 / temperature if temperature else tiny_model.logit_scale.exp().item()
    logits = class_prompts.class_logits(features, orthonormal_head(3, 8, 3).double().numpy(), scale)
    assert loss.item() == pytest.approx(class_prompts.cross_entropy(logits, batch.labels.numpy()), rel=1e-5)


def test_it_is_tecoa_for_classes_of_those_embeddings_to_the_bit(tiny_model, batch):
    named = replace(batch, class_embeds=orthonormal_head(3, 8, 0))
    results = [loss_and_gradients(o, tiny_model, None, b) for o, b in ((Adv(), batch), (TeCoA(), named))]
    assert same_bits(*results)


def test_what_classes_are_called_does_not_matter(tiny_model, batch):
    other = replace(batch, class_embeds=torch.randn_like(batch.class_embeds))
    assert torch.equal(*(Adv()(tiny_model, None, each)["adv"] for each in (batch, other)))


@pytest.mark.parametrize(("classes", "dimensions"), [(1, 4), (5, 8), (8, 8), (21, 8)])
def test_the_head_has_orthonormal_blocks(classes, dimensions):
    head = orthonormal_head(classes, dimensions, 0)
    assert head.shape == (classes, dimensions)
    for block in head.split(dimensions):
        torch.testing.assert_close(block @ block.T, torch.eye(len(block)))
    assert len(head.unique(dim=0)) == classes


def test_the_head_follows_from_its_seed_and_classes_may_be_added():
    assert not torch.equal(orthonormal_head(5, 8, 0), orthonormal_head(5, 8, 1))
    orthonormal_head.cache_clear()
    first = orthonormal_head(5, 8, 0)
    orthonormal_head.cache_clear()
    assert torch.equal(first, orthonormal_head(5, 8, 0))
    assert torch.equal(first, orthonormal_head(7, 8, 0)[:5])


def test_the_head_is_drawn_without_touching_the_global_generator():
    before = torch.random.get_rng_state()
    orthonormal_head.cache_clear()
    orthonormal_head(5, 8, 0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_head_first_asked_for_in_inference_mode_still_gives_gradients(tiny_model, batch):
    orthonormal_head.cache_clear()
    with torch.inference_mode():
        orthonormal_head(3, 8, 0)
    Adv()(tiny_model, None, batch)["adv"].backward()
    assert learned(tiny_model)


def test_the_attack_climbs_the_same_loss(tiny_model, batch):
    objective = Adv(temperature=0.2)
    forward, loss = objective.inner_problem(tiny_model, None, batch)
    losses = loss(forward(batch.adversarial))
    torch.testing.assert_close(losses.mean(), objective(tiny_model, None, batch)["adv"])
    forward, loss = adaptive_problem(objective, tiny_model, None, batch)
    torch.testing.assert_close(loss(forward(batch.adversarial)), losses)


def test_only_the_image_tower_learns_and_the_head_stays(tiny_model, batch):
    before = orthonormal_head(3, 8, 0).clone()
    Adv()(tiny_model, None, batch)["adv"].backward()
    assert learned(tiny_model)
    assert not any(name.startswith("text") for name in learned(tiny_model))
    assert torch.equal(before, orthonormal_head(3, 8, 0))
    assert not orthonormal_head(3, 8, 0).requires_grad


def test_one_class_leaves_nothing_to_learn(tiny_model, batch):
    one = replace(batch, class_embeds=batch.class_embeds[:1], labels=torch.zeros(6).long())
    assert Adv()(tiny_model, None, one)["adv"].item() == 0


def test_mistakes_are_refused(tiny_model, batch):
    with pytest.raises(ValueError, match="temperature must be above 0"):
        Adv(temperature=0)
    for attempt in (Adv().__call__, Adv().inner_problem):
        with pytest.raises(ValueError, match="Adv needs class labels"):
            attempt(tiny_model, None, replace(batch, class_embeds=None))
