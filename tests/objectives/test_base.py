"""What every objective keeps to, and what the attack in training climbs."""

import dataclasses
import inspect

import pytest
import torch

from robust_clip.objectives import OBJECTIVES, Clean, TeCoA

every_objective = pytest.mark.parametrize("objective_class", OBJECTIVES.values(), ids=OBJECTIVES)


@every_objective
def test_an_objective_is_a_frozen_value_that_names_its_paper(objective_class):
    objective = objective_class()
    assert objective == objective_class()
    assert objective.paper.arxiv_id in inspect.getdoc(objective_class)
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.anything = 1


@every_objective
def test_terms_are_finite_scalars_that_reach_the_vision_tower(objective_class, tiny_model, batch):
    terms = objective_class()(tiny_model, None, batch)
    assert terms
    assert all(term.shape == () and term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    assert tiny_model.visual_projection.weight.grad.abs().max() > 0
    text_learns = tiny_model.text_projection.weight.grad is not None
    assert text_learns == objective_class.trains_text


@every_objective
def test_an_objective_needs_only_what_it_says(objective_class, tiny_model, batch):
    """Everything that its flags do not ask for is withheld."""
    if not objective_class.needs_classes:
        batch.class_embeds, batch.labels = None, torch.full_like(batch.labels, -1)
    if not objective_class.needs_captions:
        batch.input_ids = batch.attention_mask = batch.text_index = None
    if not objective_class.needs_attack:
        batch.adversarial = torch.full_like(batch.pixels, torch.nan)
    assert all(term.isfinite() for term in objective_class()(tiny_model, None, batch).values())


@pytest.mark.parametrize("objective", [Clean(), TeCoA()], ids=lambda objective: type(objective).__name__)
def test_data_without_classes_are_refused_where_classes_are_needed(objective, tiny_model, batch):
    batch.class_embeds = None
    with pytest.raises(ValueError, match="needs class labels and class names; this data set has neither"):
        objective(tiny_model, None, batch)
    with pytest.raises(ValueError, match=f"The attack of {type(objective).__name__} climbs class-prompt"):
        objective.inner_problem(tiny_model, None, batch)


def test_the_attack_climbs_class_prompt_cross_entropy_per_sample(tiny_model, batch):
    batch.class_embeds.requires_grad_()
    forward, loss = TeCoA().inner_problem(tiny_model, None, batch)
    losses = loss(forward(batch.adversarial))
    assert losses.shape == (6,)
    torch.testing.assert_close(losses.mean(), TeCoA()(tiny_model, None, batch)["tecoa"])
    losses.sum().backward()
    assert batch.class_embeds.grad is None
