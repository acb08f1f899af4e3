"""MART: boosted cross-entropy, and divergence weighted by how unsure clean images are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from originals import before_projection, learned, twin_logits
from reference import class_prompts
from reference.clean_and_adversarial import mart
from reference.differences import central_differences
from robust_clip.objectives import MART, TeCoA, adaptive_problem
from robust_clip.objectives.mart import boosted_cross_entropy


@pytest.mark.parametrize("temperature", [None, 0.02])
def test_every_term_is_its_twin(tiny_model, batch, temperature):
    terms = MART(beta=3.0, temperature=temperature)(tiny_model, None, batch)
    scale = 1 / temperature if temperature else tiny_model.logit_scale.exp().item()
    clean, adversarial = (twin_logits(tiny_model, each, batch, scale) for each in (batch.pixels, batch.adversarial))
    want = mart(clean, adversarial, batch.labels.tolist(), 3.0)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(want, rel=1e-5)
    assert want["divergence"] > 1e-4


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_boosted_cross_entropy_is_its_twin_with_its_gradient(classes):
    random = np.random.default_rng(0)
    logits, labels = 3 * random.normal(size=(5, classes)), random.integers(classes, size=5)
    leaf = torch.tensor(logits, requires_grad=True)
    loss = boosted_cross_entropy(leaf, torch.tensor(labels)).mean()
    loss.backward()

    def twin(rows):
        return mart(rows, rows, labels, 1.0)["boosted"]

    assert loss.item() == pytest.approx(twin(logits), rel=1e-5)
    np.testing.assert_allclose(leaf.grad.numpy(), central_differences(twin, logits), rtol=1e-4, atol=1e-5)


def test_a_sure_mistake_is_pushed_however_sure_it_is():
    """At CLIP's temperature 1 - p is 0 in float32, and the authors' constant would end the push."""
    logits = torch.tensor([[0.0, 100.0, 1.0]], requires_grad=True)
    loss = boosted_cross_entropy(logits, torch.tensor([0]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(100 + 100 - np.log(np.exp(0) + np.exp(1)), rel=1e-6)
    assert logits.grad[0, 1].item() == pytest.approx(2, rel=1e-6)


def test_one_class_leaves_nothing(tiny_model, batch):
    one = replace(batch, class_embeds=batch.class_embeds[:1], labels=torch.zeros(6).long())
    terms = MART()(tiny_model, None, one)
    assert [term.item() for term in terms.values()] == [0, 0]
    sum(terms.values()).backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in tiny_model.parameters())


@pytest.mark.parametrize("detach_weight", [True, False])
def test_the_gradient_of_the_weighted_divergence(tiny_model, batch, detach_weight):
    """By the projection, of which clean and adversarial logits depend; the weight moves with it or stays."""
    one, weight = batch[torch.tensor([0])], tiny_model.visual_projection.weight
    before = weight.detach().double().numpy().copy()
    pooled = [before_projection(tiny_model, pixels) for pixels in (one.pixels, one.adversarial)]
    scale, embeds = tiny_model.logit_scale.exp().item(), one.class_embeds.double().numpy()

    def parts(matrix):
        clean, adversarial = (class_prompts.class_logits(each @ matrix.T, embeds, scale) for each in pooled)
        whole = mart(clean, adversarial, one.labels.tolist(), 6.0)["divergence"]
        unsure = 1 - np.exp(-class_prompts.cross_entropy(clean, one.labels.numpy()))
        return whole, unsure

    def twin(matrix):
        whole, unsure = parts(matrix)
        return whole * parts(before)[1] / unsure if detach_weight else whole

    tiny_model.zero_grad()
    MART(detach_weight=detach_weight)(tiny_model, None, one)["divergence"].backward()
    np.testing.assert_allclose(weight.grad.numpy(), central_differences(twin, before), rtol=1e-3, atol=1e-5)


def test_the_attack_climbs_cross_entropy(tiny_model, batch):
    losses = [
        loss(forward(batch.adversarial))
        for forward, loss in (each.inner_problem(tiny_model, None, batch) for each in (MART(), TeCoA()))
    ]
    assert torch.equal(*losses)
    forward, _ = MART(temperature=0.5).inner_problem(tiny_model, None, batch)
    assert forward(batch.pixels).abs().max() <= 2


def test_beta_of_0_is_boosted_cross_entropy_of_adversarial_images_alone(tiny_model, batch):
    unseen = replace(batch, pixels=torch.full_like(batch.pixels, torch.nan))
    assert set(MART(beta=0)(tiny_model, None, unseen)) == {"boosted"}
    assert (MART(beta=0).student_passes, MART().student_passes, MART().teacher_passes) == (1, 2, 0)


def test_single_images_add_up_and_only_the_image_tower_learns(tiny_model, batch):
    batch.class_embeds.requires_grad_()
    whole = sum(MART()(tiny_model, None, batch).values())
    forward, loss = adaptive_problem(MART(), tiny_model, None, batch)
    torch.testing.assert_close(loss(forward(batch.adversarial)).mean(), whole)
    whole.backward()
    assert not any(name.startswith("text") for name in learned(tiny_model))


def test_the_paper_is_found_on_openreview():
    assert MART.paper.url == "https://openreview.net/forum?id=rklOg6EFwS"


def test_mistakes_are_refused(tiny_model, batch):
    with pytest.raises(ValueError, match="beta must not be negative, got nan"):
        MART(beta=float("nan"))
    with pytest.raises(ValueError, match="temperature must be above 0"):
        MART(temperature=0)
    without = replace(batch, class_embeds=None)
    with pytest.raises(ValueError, match="MART needs class labels"):
        MART()(tiny_model, None, without)
    with pytest.raises(ValueError, match="The attack of MART needs class labels"):
        MART().inner_problem(tiny_model, None, without)
