"""What every objective keeps to, and what the attack in training climbs."""

import copy
import dataclasses
import inspect

import numpy as np
import pytest
import torch

from originals import count_passes
from reference.differences import central_differences
from robust_clip.attacks import PGD, sample_generators
from robust_clip.objectives import (
    CAW,
    FARE,
    OBJECTIVES,
    PMGAFT,
    TGAZSR,
    Clean,
    CompTGA,
    Contrastive,
    TeCoA,
    adaptive_problem,
)
from robust_clip.threat_model import ThreatModel

OF_CLASSES = {"class_embeds", "original_class_embeds", "other_class_embeds", "prompt_ids", "prompt_mask"}
OF_CLASSES |= {"input_ids", "attention_mask", "attacked_ids", "attacked_mask"}
every_objective = pytest.mark.parametrize("objective_class", OBJECTIVES.values(), ids=OBJECTIVES)


@every_objective
def test_an_objective_is_a_frozen_value_that_names_its_paper(objective_class):
    objective = objective_class()
    assert objective == objective_class()
    assert objective.paper.url in inspect.getdoc(objective_class)
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.anything = 1


def teacher_of(objective, model):
    """An original that the student has moved away from."""
    if not objective.needs_teacher:
        return None
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return teacher.requires_grad_(False)


@every_objective
def test_the_gradient_is_that_of_differences(objective_class, tiny_model, batch):
    """By default no objective holds a part of itself constant that the weights of a projection move."""
    objective = objective_class()
    teacher = teacher_of(objective, tiny_model)
    weight = (tiny_model.visual_projection if objective.trains_vision else tiny_model.text_projection).weight

    def loss(weights):
        with torch.no_grad():
            weight.copy_(torch.tensor(weights))
            return sum(objective(tiny_model, teacher, batch).values()).item()

    sum(objective(tiny_model, teacher, batch).values()).backward()
    expected = central_differences(loss, weight.detach().numpy().copy(), step=5e-4)
    np.testing.assert_allclose(weight.grad.numpy(), expected, rtol=0, atol=5e-3 * np.abs(expected).max())


@every_objective
def test_terms_are_finite_scalars_that_reach_the_towers_it_names(objective_class, tiny_model, batch):
    objective = objective_class()
    terms = objective(tiny_model, teacher_of(objective, tiny_model), batch)
    assert terms
    assert all(term.shape == () and term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    for projection, learns in (
        (tiny_model.visual_projection, objective.trains_vision),
        (tiny_model.text_projection, objective.trains_text),
    ):
        gradient = projection.weight.grad
        assert (gradient is not None and gradient.abs().max().item() > 0) == learns


@every_objective
@pytest.mark.parametrize("same", [False, True], ids=["another original", "itself as the original"])
def test_one_class_leaves_loss_and_gradients_finite(objective_class, same, tiny_model, batch):
    """And cross-entropy over it is 0."""
    objective = objective_class()
    one = dataclasses.replace(
        batch,
        labels=torch.zeros_like(batch.labels),
        text_index=torch.zeros_like(batch.labels),
        **{name: getattr(batch, name)[:1] for name in OF_CLASSES},
    )
    teacher = copy.deepcopy(tiny_model).requires_grad_(False) if same else teacher_of(objective, tiny_model)
    terms = objective(tiny_model, teacher if objective.needs_teacher else None, one)
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in tiny_model.parameters())
    for name in {"tecoa", "cross_entropy", "clean", "apt", "tam"} & terms.keys():
        assert terms[name].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("objective", [CAW(0, 0), PMGAFT(0, 0), TGAZSR(0, 0), CompTGA(0, 0)], ids=str)
def test_weights_of_0_leave_tecoa_without_a_teacher(objective, tiny_model, batch):
    (loss,) = objective(tiny_model, None, batch).values()
    assert not objective.needs_teacher
    assert torch.equal(loss, TeCoA()(tiny_model, None, batch)["tecoa"])


def test_fare_of_clean_images_alone_attacks_none():
    assert not FARE(clean_weight=1).needs_attack
    assert FARE(clean_weight=0.5).needs_attack


@every_objective
def test_an_objective_needs_only_what_it_says(objective_class, tiny_model, batch):
    """Everything that its flags do not ask for is withheld."""
    objective = objective_class()
    if not objective.needs_classes:
        batch.class_embeds, batch.labels = None, torch.full_like(batch.labels, -1)
    if not objective.needs_captions:
        batch.input_ids = batch.attention_mask = batch.text_index = None
    if not objective.needs_attack:
        batch.adversarial = torch.full_like(batch.pixels, torch.nan)
    if not objective.needs_text_attack:
        batch.attacked_ids = batch.attacked_mask = None
    if not objective.trains_class_prompts:
        batch.prompt_ids = batch.prompt_mask = None
    if objective.other_template is None:
        batch.other_class_embeds = None
    terms = objective(tiny_model, teacher_of(objective, tiny_model), batch)
    assert all(term.isfinite() for term in terms.values())


@every_objective
def test_passes_of_the_image_towers_are_as_many_as_it_says(objective_class, tiny_model, batch):
    """With a gradient to weights and without, for the attack or the loss: the floor of the benchmark counts on it."""
    objective = objective_class()
    teacher, passes = teacher_of(objective, tiny_model), []
    for model in filter(None, (tiny_model, teacher)):
        model.vision_model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    if objective.needs_attack:
        objective.inner_problem(tiny_model, teacher, batch)
    objective(tiny_model, teacher, batch)
    assert (passes.count(True), passes.count(False)) == (objective.student_passes, objective.teacher_passes)


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


def test_an_adaptive_attack_climbs_the_whole_training_loss(tiny_model, batch):
    forward, loss = adaptive_problem(TeCoA(), tiny_model, None, batch)
    losses = loss(forward(batch.adversarial))
    assert losses.shape == (6,)
    torch.testing.assert_close(losses.mean(), TeCoA()(tiny_model, None, batch)["tecoa"])
    assert len(set(losses.tolist())) == 6
    kept = torch.tensor([4, 1])
    torch.testing.assert_close(loss[kept](batch.adversarial[kept]), losses[kept])


def test_a_loss_that_compares_samples_cannot_be_climbed_for_each(tiny_model, batch):
    with pytest.raises(ValueError, match="Contrastive compares the samples of a batch"):
        adaptive_problem(Contrastive(), tiny_model, None, batch)


def test_climbing_the_loss_of_tecoa_is_climbing_cross_entropy(tiny_model, batch):
    """Its mean over the batch moves each image as its own cross-entropy does."""
    attack, allowed = PGD(steps=3), ThreatModel("linf", "8/255")
    adversarial = [
        attack(forward, batch.pixels, loss, allowed, sample_generators(0, range(6)))
        for forward, loss in (
            TeCoA().inner_problem(tiny_model, None, batch),
            adaptive_problem(TeCoA(), tiny_model, None, batch),
        )
    ]
    torch.testing.assert_close(adversarial[0], adversarial[1])


def test_an_adaptive_attack_puts_the_model_into_eval_mode(tiny_model, batch):
    forward, loss = adaptive_problem(TeCoA(), tiny_model.train(), None, batch)
    seen = []
    tiny_model.visual_projection.register_forward_hook(lambda *_: seen.append(tiny_model.training))
    PGD(steps=1)(forward, batch.pixels, loss, ThreatModel("linf", "1/255"), sample_generators(0, range(6)))
    assert seen
    assert not any(seen)
    assert tiny_model.training


@pytest.mark.parametrize("weights", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("objective_class", [CompTGA, PMGAFT, TGAZSR])
def test_passes_are_counted_as_they_are_taken(tiny_model, teacher, batch, objective_class, weights):
    objective = objective_class(*weights)
    passes = count_passes(student=tiny_model, teacher=teacher)
    objective(tiny_model, teacher, batch)
    assert passes == {"student": objective.student_passes, "teacher": objective.teacher_passes}
