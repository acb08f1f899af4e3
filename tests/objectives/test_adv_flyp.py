"""AdvFLYP: InfoNCE of adversarial images with captions, features and predictions held."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from originals import another, learned, loss_and_gradients
from reference import adv_flyp as twin
from reference import class_prompts, contrastive
from reference.differences import central_differences
from robust_clip.attacks import PGD, sample_generators
from robust_clip.objectives import AdvFLYP, adaptive_problem
from robust_clip.objectives.adv_flyp import BatchInfoNCE
from robust_clip.threat_model import ThreatModel

GROUPS = {"distinct": [0, 1, 2, 3, 4], "pairs": [7, 3, 7, 3, 9], "one": [4, 4, 4, 4, 4]}


@pytest.fixture
def batch(batch):
    """Images and captions alone; every caption belongs to two images."""
    return replace(batch, class_embeds=None, labels=torch.full((6,), -1))


@torch.no_grad()
def captions_of(model, batch):
    return model.encode_text(batch.input_ids, batch.attention_mask)[batch.text_index].double().numpy()


@pytest.mark.parametrize("temperature", [None, 0.02])
def test_every_term_is_its_twin(tiny_model, teacher, batch, temperature):
    objective = AdvFLYP(feature_weight=0.3, logit_weight=0.7, temperature=temperature)
    terms = objective(tiny_model, teacher, batch)
    views = ((tiny_model, batch.adversarial), (tiny_model, batch.pixels), (teacher, batch.adversarial))
    features = [model.encode_image(pixels).detach().double().numpy() for model, pixels in views]
    scale = 1 / temperature if temperature else tiny_model.logit_scale.exp().item()
    captions, groups = captions_of(tiny_model, batch), batch.text_index.tolist()
    want = twin.terms(*features, captions, groups, scale)
    want = {name: weight * want[name] for name, weight in {"info_nce": 1, "feature": 0.3, "logit": 0.7}.items()}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(want, rel=1e-5)
    assert min(want.values()) > 1e-3


def test_equal_captions_give_the_loss_of_the_authors(tiny_model, batch):
    """Theirs is cross-entropy with the diagonal, both ways, whatever the captions say."""
    loss = AdvFLYP(feature_weight=0, logit_weight=0)(tiny_model, None, batch)["info_nce"]
    features = tiny_model.encode_image(batch.adversarial).detach().double().numpy()
    logits = class_prompts.class_logits(features, captions_of(tiny_model, batch), tiny_model.logit_scale.exp().item())
    theirs = sum(class_prompts.cross_entropy(each, range(6)) for each in (logits, logits.T)) / 2
    assert loss.item() == pytest.approx(theirs, rel=1e-5)


def test_a_regulariser_of_weight_0_is_not_computed(tiny_model, teacher, batch):
    off = AdvFLYP(feature_weight=0, logit_weight=0)
    assert (off.needs_teacher, off.student_passes, off.teacher_passes) == (False, 1, 0)
    unseen = replace(batch, pixels=torch.full_like(batch.pixels, torch.nan))
    assert set(off(tiny_model, None, unseen)) == {"info_nce"}
    for weights in ({"feature_weight": 0}, {"logit_weight": 0}):
        one = AdvFLYP(**weights)
        assert (one.needs_teacher, one.student_passes, one.teacher_passes) == (True, 2, 1)
        assert len(one(tiny_model, teacher, batch)) == 2


def test_nothing_is_held_that_has_not_moved(tiny_model, batch):
    still, same = replace(batch, adversarial=batch.pixels), another(tiny_model, size=0)
    terms = AdvFLYP()(tiny_model, same, still)
    assert terms["feature"].item() == 0
    assert abs(terms["logit"].item()) < 1e-6
    assert all(value.isfinite().all() for value in loss_and_gradients(AdvFLYP(), tiny_model, same, still).values())


def test_the_clean_view_learns_of_the_regularisers(tiny_model, teacher, batch):
    """With an original as far off as the clean image moves, a constant clean view would give another gradient."""
    weight = tiny_model.visual_projection.weight
    terms = AdvFLYP()(tiny_model, teacher, batch)
    (found,) = torch.autograd.grad(terms["feature"], weight)
    gradients = []
    for constant in (False, True):
        views = ((tiny_model, batch.adversarial), (tiny_model, batch.pixels), (teacher, batch.adversarial))
        adversarial, clean, original = (F.normalize(model.encode_image(pixels), dim=1) for model, pixels in views)
        pairs = ((adversarial, clean.detach() if constant else clean), (adversarial, original.detach()))
        loss = torch.stack([(a - b).norm(dim=1) for a, b in pairs]).sum(dim=0).mean()
        gradients += torch.autograd.grad(loss, weight)
    torch.testing.assert_close(found, gradients[0])
    assert (gradients[1] - gradients[0]).abs().max() > 0.1 * gradients[0].abs().max()


def test_only_the_students_image_tower_learns(tiny_model, teacher, batch):
    loss_and_gradients(AdvFLYP(), tiny_model, teacher, batch)
    assert learned(teacher) == set()
    assert any(name.startswith("vision_model.") for name in learned(tiny_model))
    assert not any(name.startswith("text") for name in learned(tiny_model))


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_the_values_of_a_batch_have_its_loss_for_mean_and_its_gradient(groups):
    features, captions = np.random.default_rng(0).normal(size=(2, 5, 6))
    captions /= np.linalg.norm(captions, axis=1, keepdims=True)
    leaf = torch.tensor(features, requires_grad=True)
    values = BatchInfoNCE(torch.tensor(captions), torch.tensor(groups), 8.0)(leaf)
    values.sum().backward()

    def loss(moved):
        return contrastive.info_nce(class_prompts.class_logits(moved, captions, 8.0), groups)

    assert values.shape == (5,)
    assert values.mean().item() == pytest.approx(loss(features), rel=1e-5)
    numeric = 5 * central_differences(loss, features)
    np.testing.assert_allclose(leaf.grad.numpy(), numeric, rtol=1e-4, atol=1e-5)


def test_the_attack_climbs_the_loss_of_the_batch(tiny_model, teacher, batch):
    objective = AdvFLYP(temperature=0.1)
    forward, loss = objective.inner_problem(tiny_model, teacher, batch)
    values = loss(forward(batch.adversarial))
    torch.testing.assert_close(values.mean(), objective(tiny_model, teacher, batch)["info_nce"])
    assert loss.fooled(forward(batch.adversarial)) is None
    found = PGD(steps=5)(forward, batch.pixels, loss, ThreatModel("linf", "16/255"), sample_generators(0, range(6)))
    assert loss(forward(found)).sum() > loss(forward(batch.pixels)).sum()
    assert not loss.captions.requires_grad


def test_samples_see_each_other_in_the_attack(tiny_model, batch):
    """The gradient by one image is more than that of its own value."""
    forward, loss = AdvFLYP().inner_problem(tiny_model, None, batch)
    pixels = batch.pixels.clone().requires_grad_()
    values = loss(forward(pixels))
    whole, own = (torch.autograd.grad(each, pixels, retain_graph=True)[0][0] for each in (values.sum(), values[0]))
    assert (whole - own).abs().max() > 0.1 * whole.abs().max()


def test_captions_are_encoded_once_for_attack_and_loss(tiny_model, teacher, batch):
    calls = []
    tiny_model.text_projection.register_forward_hook(lambda *_: calls.append(1))
    AdvFLYP().inner_problem(tiny_model, teacher, batch)
    AdvFLYP()(tiny_model, teacher, batch)
    assert len(calls) == 1


def test_it_cannot_be_climbed_image_by_image(tiny_model, teacher, batch):
    with pytest.raises(ValueError, match="AdvFLYP compares the samples"):
        adaptive_problem(AdvFLYP(), tiny_model, teacher, batch)


def test_mistakes_are_refused(tiny_model, teacher, batch):
    with pytest.raises(ValueError, match="feature_weight must not be negative, got -1"):
        AdvFLYP(feature_weight=-1)
    with pytest.raises(ValueError, match="logit_weight must not be negative"):
        AdvFLYP(logit_weight=float("nan"))
    with pytest.raises(ValueError, match="temperature must be above 0"):
        AdvFLYP(temperature=0)
    with pytest.raises(ValueError, match="AdvFLYP compares with the frozen original"):
        AdvFLYP()(tiny_model, None, batch)
    for attempt in (AdvFLYP().__call__, AdvFLYP().inner_problem):
        with pytest.raises(ValueError, match="AdvFLYP needs captions"):
            attempt(tiny_model, teacher, replace(batch, input_ids=None))
