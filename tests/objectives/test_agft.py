"""AGFT: cross-entropy with the original's softened predictions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from originals import another, learned, loss_and_gradients, twin_logits
from reference import guided_by_original
from reference.differences import central_differences
from robust_clip import PGD, ThreatModel
from robust_clip.attacks import sample_generators
from robust_clip.objectives import TeCoA
from robust_clip.objectives.agft import AGFT, SoftCrossEntropy


@pytest.mark.parametrize(("gamma", "temperature"), [(0.4, 1 / 180), (1.0, 0.1), (0.4, None)])
def test_agft_is_its_twin(tiny_model, teacher, batch, gamma, temperature):
    loss = AGFT(gamma, temperature)(tiny_model, teacher, batch)["soft_alignment"]
    scale = 1 / temperature if temperature else tiny_model.logit_scale.exp().item()
    targets = guided_by_original.soft_targets(twin_logits(teacher, batch.pixels, batch, scale), gamma)
    twin = guided_by_original.soft_cross_entropy(twin_logits(tiny_model, batch.adversarial, batch, scale), targets)
    assert loss.item() == pytest.approx(twin, rel=1e-5)


def test_the_defaults_are_the_authors():
    assert (AGFT().gamma, AGFT().temperature) == (0.4, 1 / 180)


def test_gradient_of_the_soft_cross_entropy():
    logits, raw = 3 * np.random.default_rng(0).normal(size=(2, 4, 3))
    targets = guided_by_original.soft_targets(raw, 0.4)
    leaf = torch.tensor(logits, requires_grad=True)
    SoftCrossEntropy(torch.tensor(targets).float())(leaf).mean().backward()
    numeric = central_differences(lambda x: guided_by_original.soft_cross_entropy(x, targets), logits)
    np.testing.assert_allclose(leaf.grad.numpy(), numeric, rtol=1e-4, atol=1e-6)


def test_a_sure_original_that_is_right_leaves_tecoa(tiny_model, teacher, batch):
    """With a very large gamma its first choice is the label."""
    tempered = AGFT(gamma=1e6, temperature=None)
    choices = twin_logits(teacher, batch.pixels, batch, 1.0).argmax(axis=1)
    right = replace(batch, labels=torch.tensor(choices))
    first, second = (loss_and_gradients(each, tiny_model, teacher, right) for each in (tempered, TeCoA()))
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name])


def test_hardly_any_gamma_makes_all_classes_equally_right(tiny_model, teacher, batch):
    flat = AGFT(gamma=1e-9)(tiny_model, teacher, batch)["soft_alignment"].item()
    logits = twin_logits(tiny_model, batch.adversarial, batch, 180.0)
    assert flat == pytest.approx(guided_by_original.soft_cross_entropy(logits, np.full((6, 3), 1 / 3)), rel=1e-5)


def test_it_is_least_where_the_student_predicts_the_targets(tiny_model, batch):
    """Without attack, and gamma 1, an original that is the student leaves no gradient."""
    still, same = replace(batch, adversarial=batch.pixels), another(tiny_model, size=0)

    def steepest(gamma):
        result = loss_and_gradients(AGFT(gamma, 0.1), tiny_model, same, still)
        return max(value.abs().max().item() for name, value in result.items() if name != "loss")

    assert steepest(1.0) < 1e-4 * steepest(0.4)


def test_labels_are_not_looked_at(tiny_model, teacher, batch):
    unlabelled = replace(batch, labels=torch.full((6,), -1))
    losses = [AGFT()(tiny_model, teacher, each)["soft_alignment"] for each in (batch, unlabelled)]
    assert torch.equal(*losses)


def test_one_class_is_learned_already(tiny_model, teacher, batch):
    one = replace(batch[torch.tensor([0])], class_embeds=batch.class_embeds[:1])
    assert AGFT()(tiny_model, teacher, one)["soft_alignment"].item() == 0


def test_the_attack_climbs_the_same_loss_sample_by_sample(tiny_model, teacher, batch):
    forward, loss = AGFT().inner_problem(tiny_model, teacher, batch)
    losses = loss(forward(batch.adversarial))
    torch.testing.assert_close(losses.mean(), AGFT()(tiny_model, teacher, batch)["soft_alignment"])
    kept = torch.tensor([4, 1])
    torch.testing.assert_close(loss[kept](forward(batch.adversarial[kept])), losses[kept])
    assert loss.fooled(forward(batch.adversarial)) is None
    found = PGD(steps=5)(forward, batch.pixels, loss, ThreatModel("linf", "8/255"), sample_generators(0, range(6)))
    assert loss(forward(found)).mean() > loss(forward(batch.pixels)).mean()


def test_the_original_is_asked_once_for_attack_and_loss_and_never_taught(tiny_model, teacher, batch):
    asked = []
    teacher.visual_projection.register_forward_hook(lambda *_: asked.append(torch.is_grad_enabled()))
    batch.class_embeds.requires_grad_()
    AGFT().inner_problem(tiny_model, teacher, batch)
    loss_and_gradients(AGFT(), tiny_model, teacher, batch)
    assert asked == [False]
    assert learned(teacher) == set()
    assert all(name.startswith(("vision_model.", "visual_projection.")) for name in learned(tiny_model))


def test_mistakes_are_refused(tiny_model, teacher, batch):
    for wrong in (0, -0.4, float("nan")):
        with pytest.raises(ValueError, match="gamma must be above 0"):
            AGFT(gamma=wrong)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        AGFT(temperature=0)
    for what in (AGFT(), AGFT().inner_problem):
        with pytest.raises(ValueError, match="AGFT compares with the frozen original"):
            what(tiny_model, None, batch)
        with pytest.raises(ValueError, match="AGFT needs class labels"):
            what(tiny_model, teacher, replace(batch, class_embeds=None))
