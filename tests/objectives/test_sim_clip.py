"""Sim-CLIP: adversarial features point where the clean ones do, in the paper's form and in the code's."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from originals import another, count_passes, learned, loss_and_gradients
from reference import guided_by_original
from reference.differences import central_differences
from robust_clip import PGD, ThreatModel
from robust_clip.attacks import sample_generators
from robust_clip.objectives.sim_clip import SimCLIP, stopped_distance

BOTH_FORMS = pytest.mark.parametrize("form", ["frozen", "siamese"])


@torch.no_grad()
def features(model, pixels):
    return model.encode_image(pixels).double().numpy()


def test_the_authors_form_is_its_twin(tiny_model, teacher, batch):
    terms = SimCLIP()(tiny_model, teacher, batch)
    far = guided_by_original.cosine_distance(features(tiny_model, batch.adversarial), features(teacher, batch.pixels))
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({"adversarial": far / 2}, rel=1e-5)
    assert far > 0.01


def test_the_papers_form_is_its_twin(tiny_model, teacher, batch):
    terms = SimCLIP("siamese")(tiny_model, teacher, batch)
    views = features(tiny_model, batch.adversarial), features(tiny_model, batch.pixels)
    half = guided_by_original.cosine_distance(*views) / 2
    twin = pytest.approx({"adversarial": half, "clean": half}, rel=1e-5, abs=1e-7)
    assert {name: term.item() for name, term in terms.items()} == twin
    assert half > 1e-4


def test_gradient_of_the_distance_reaches_one_side():
    one, other = np.random.default_rng(0).normal(size=(2, 4, 5))
    leaf, held = (torch.tensor(each, requires_grad=True) for each in (one, other))
    stopped_distance(leaf, held).mean().backward()
    numeric = central_differences(lambda x: guided_by_original.cosine_distance(x, other), one)
    np.testing.assert_allclose(leaf.grad.numpy(), numeric, rtol=1e-4, atol=1e-6)
    assert held.grad is None


def test_the_two_stopped_halves_are_half_of_the_gradient_without_stopping(tiny_model, teacher, batch):
    """What the docstring says of the paper's form."""
    stopped = loss_and_gradients(SimCLIP("siamese"), tiny_model, teacher, batch)

    def together(model, _, batch):
        views = model.encode_image(batch.adversarial), model.encode_image(batch.pixels)
        return {"both": (1 - torch.cosine_similarity(*views)).mean()}

    whole = loss_and_gradients(together, tiny_model, teacher, batch)
    assert torch.equal(stopped.pop("loss"), whole.pop("loss"))
    assert stopped.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(stopped[name], gradient / 2, rtol=1e-4, atol=1e-6)


@BOTH_FORMS
def test_it_is_0_without_attack_while_the_student_is_the_original(tiny_model, batch, form):
    still = replace(batch, adversarial=batch.pixels)
    result = loss_and_gradients(SimCLIP(form), tiny_model, another(tiny_model, size=0), still)
    assert all(value.abs().max() < 1e-6 for value in result.values())


@BOTH_FORMS
def test_the_length_of_features_does_not_matter(tiny_model, teacher, batch, form):
    before = SimCLIP(form)(tiny_model, teacher, batch)["adversarial"]
    tiny_model.visual_projection.weight.data *= 3
    torch.testing.assert_close(SimCLIP(form)(tiny_model, teacher, batch)["adversarial"], before)


@BOTH_FORMS
def test_the_attack_climbs_the_distance_to_the_originals_clean_features(tiny_model, teacher, batch, form):
    forward, loss = SimCLIP(form).inner_problem(tiny_model, teacher, batch)
    expected = (features(tiny_model, batch.adversarial) - features(teacher, batch.pixels)) ** 2
    np.testing.assert_allclose(loss(forward(batch.adversarial)).detach().numpy(), expected.sum(axis=1), rtol=1e-5)
    assert loss.fooled(forward(batch.adversarial)) is None
    found = PGD(steps=5)(forward, batch.pixels, loss, ThreatModel("linf", "8/255"), sample_generators(0, range(6)))
    assert (loss(forward(found)) > loss(forward(batch.pixels))).all()


@BOTH_FORMS
def test_passes_of_attack_and_loss_are_counted_as_they_are_taken(tiny_model, teacher, batch, form):
    passes = count_passes(student=tiny_model, teacher=teacher)
    objective = SimCLIP(form)
    objective.inner_problem(tiny_model, teacher, batch)
    loss_and_gradients(objective, tiny_model, teacher, batch)
    assert passes == {"student": objective.student_passes, "teacher": objective.teacher_passes}
    assert learned(teacher) == set()
    assert all(name.startswith(("vision_model.", "visual_projection.")) for name in learned(tiny_model))


@BOTH_FORMS
def test_one_image_without_label_or_class_is_enough(tiny_model, teacher, batch, form):
    whole = SimCLIP(form)(tiny_model, teacher, batch)["adversarial"]
    bare = replace(batch, class_embeds=None, labels=torch.full((6,), -1))
    alone = [SimCLIP(form)(tiny_model, teacher, bare[torch.tensor([row])])["adversarial"] for row in range(6)]
    torch.testing.assert_close(torch.stack(alone).mean(), whole, rtol=1e-4, atol=1e-6)


def test_mistakes_are_refused(tiny_model, batch):
    with pytest.raises(ValueError, match="form must be one of frozen, siamese, got 'paper'"):
        SimCLIP("paper")
    for what in (SimCLIP(), SimCLIP("siamese").inner_problem):
        with pytest.raises(ValueError, match="Sim-CLIP compares with the frozen original"):
            what(tiny_model, None, batch)
