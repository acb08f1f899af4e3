"""CAW: TeCoA, a confidence-aware divergence from the original, and alignment with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from originals import another, learned, loss_and_gradients, same_bits, slope_at_a_pixel
from reference import class_prompts, guided_by_original
from reference.differences import central_differences
from robust_clip.objectives import TeCoA, adaptive_problem
from robust_clip.objectives.caw import CAW, confidence_aware_divergence
from robust_clip.objectives.functional import feature_distance

LABELS = [2, 0, 1, 1]


def logits(seed):
    return 3 * np.random.default_rng(seed).normal(size=(4, 3))


@pytest.mark.parametrize("normalize", [True, False])
def test_every_term_is_its_twin(tiny_model, teacher, batch, normalize):
    terms = CAW(alpha=0.7, beta=0.3, normalize_features=normalize)(tiny_model, teacher, batch)
    adversarial, frozen, clean = (
        model.encode_image(pixels).detach().double().numpy()
        for model, pixels in ((tiny_model, batch.adversarial), (teacher, batch.adversarial), (teacher, batch.pixels))
    )
    embeds, scale, labels = batch.class_embeds.double().numpy(), tiny_model.logit_scale.exp().item(), batch.labels
    student_logits, original_logits = (class_prompts.class_logits(f, embeds, scale) for f in (adversarial, clean))
    twin = {
        "cross_entropy": class_prompts.cross_entropy(student_logits, labels),
        "confidence": 0.7
        * guided_by_original.confidence_aware_divergence(student_logits, original_logits, labels.tolist()),
        "alignment": 0.3 * guided_by_original.feature_distance(adversarial, frozen, normalize),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(twin, rel=1e-5)
    assert twin["confidence"] > 1e-4
    assert twin["alignment"] > 1e-2


def test_weights_of_0_give_tecoa_to_the_bit(tiny_model, teacher, batch):
    results = [loss_and_gradients(each, tiny_model, teacher, batch) for each in (CAW(alpha=0, beta=0), TeCoA())]
    assert same_bits(*results)


def test_an_original_that_is_the_student_and_no_attack_leave_tecoa(tiny_model, batch):
    still = replace(batch, adversarial=batch.pixels)
    terms = CAW()(tiny_model, another(tiny_model, size=0), still)
    assert terms["alignment"].item() == 0
    assert abs(terms["confidence"].item()) < 1e-7
    result = loss_and_gradients(CAW(), tiny_model, another(tiny_model, size=0), still)
    assert all(value.isfinite().all() for value in result.values())


def test_the_original_is_looked_at_and_never_taught(tiny_model, teacher, batch):
    batch.class_embeds.requires_grad_()
    loss_and_gradients(CAW(), tiny_model, teacher, batch)
    assert learned(teacher) == set()
    assert learned(tiny_model)
    assert all(name.startswith(("vision_model.", "visual_projection.", "logit_scale")) for name in learned(tiny_model))
    assert batch.teacher_features is not None


def test_one_class_and_one_image_leave_only_the_alignment(tiny_model, teacher, batch):
    one = replace(batch[torch.tensor([0])], class_embeds=batch.class_embeds[:1], labels=torch.tensor([0]))
    terms = CAW()(tiny_model, teacher, one)
    assert terms["cross_entropy"].item() == terms["confidence"].item() == 0
    assert terms["alignment"].item() > 0


def test_a_sure_student_is_let_alone_and_an_unsure_one_is_not():
    original = torch.zeros(2, 3)
    student = torch.tensor([[30.0, 0.0, 0.0], [0.0, 0.0, 0.0]]) + torch.tensor([0.0, 1.0, -1.0])
    sure, unsure = confidence_aware_divergence(student, original, torch.tensor([0, 0]))
    assert sure < 1e-6 < 0.05 < unsure


@pytest.mark.parametrize("detach_weight", [True, False])
def test_gradient_of_the_divergence(detach_weight):
    """With a weight that is detached, that of the twin whose weight stays where it was."""
    student, original, labels = logits(0), logits(1), torch.tensor(LABELS)
    leaf = torch.tensor(student, requires_grad=True)
    confidence_aware_divergence(leaf, torch.tensor(original), labels, detach_weight).mean().backward()
    weights = [1 - guided_by_original.softmax(row)[label] for row, label in zip(student, LABELS, strict=True)]

    def twin(rows):
        if not detach_weight:
            return guided_by_original.confidence_aware_divergence(rows, original, LABELS)
        return np.mean([w * guided_by_original.kl(z, q) for w, z, q in zip(weights, rows, original, strict=True)])

    np.testing.assert_allclose(leaf.grad.numpy(), central_differences(twin, student), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_gradient_of_the_alignment(normalize):
    features, reference = np.random.default_rng(0).normal(size=(2, 4, 5))
    leaf = torch.tensor(features, requires_grad=True)
    feature_distance(leaf, torch.tensor(reference), normalize).mean().backward()
    numeric = central_differences(lambda x: guided_by_original.feature_distance(x, reference, normalize), features)
    np.testing.assert_allclose(leaf.grad.numpy(), numeric, rtol=1e-4, atol=1e-5)


def test_an_adaptive_attack_sees_the_original_move_with_the_image(tiny_model, teacher, batch):
    """The gradient of the whole loss by one pixel, against the difference of the loss."""
    one = batch[torch.tensor([3])]
    _, loss = adaptive_problem(CAW(alpha=0, beta=100), tiny_model.double(), teacher.double(), one)
    gradient, difference = slope_at_a_pixel(loss, one.adversarial.double())
    assert gradient == pytest.approx(difference, rel=1e-2)


def test_mistakes_are_refused(tiny_model, teacher, batch):
    with pytest.raises(ValueError, match="alpha must not be negative, got -1"):
        CAW(alpha=-1)
    with pytest.raises(ValueError, match="beta must not be negative"):
        CAW(beta=float("nan"))
    with pytest.raises(ValueError, match="CAW compares with the frozen original"):
        CAW()(tiny_model, None, batch)
    with pytest.raises(ValueError, match="CAW needs class labels"):
        CAW()(tiny_model, teacher, replace(batch, class_embeds=None))


def test_passes_of_the_original_are_those_of_the_terms_that_are_on():
    assert [CAW(alpha=a, beta=b).teacher_passes for a in (0, 1) for b in (0, 1)] == [0, 1, 1, 2]
