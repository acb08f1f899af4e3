"""Each loss against its equation, restated in plain numpy."""

import numpy as np
import pytest
import torch

from reference.logit_ratios import difference_of_logits_ratio, targeted_difference_of_logits_ratio
from robust_clip.attacks.losses import DLR, LOSSES, CrossEntropy, Margin

LABELS = torch.tensor([0, 2, 4, 1, 1])
TARGETS = torch.tensor([3, 5, 0, 0, 4])
LOGITS = 3 * torch.randn(5, 6, generator=torch.Generator().manual_seed(0))

# Every loss made from labels, targeted ones too, in a form whose parameters are not the defaults.
LABELLED = [
    CrossEntropy(LABELS),
    CrossEntropy(LABELS).towards(TARGETS),
    Margin(LABELS, confidence=2.0),
    DLR(LABELS),
    DLR(LABELS).towards(TARGETS),
]

every_loss = pytest.mark.parametrize("loss", LABELLED, ids=lambda loss: type(loss).__name__)


def cross_entropy(logits, label):
    """-log softmax(z)_y."""
    return np.log(np.exp(logits - logits[label]).sum())


def margin(logits, label, confidence):
    """-relu(z_y - max_{j != y} z_j + confidence)."""
    return -max(logits[label] - np.delete(logits, label).max() + confidence, 0)


def each_sample(equation, *classes):
    """The equation of one sample, for all of them in float64."""
    return [equation(*row) for row in zip(LOGITS.double().numpy(), *(c.tolist() for c in classes), strict=True)]


def test_cross_entropy_is_its_equation():
    """Sample by sample."""
    np.testing.assert_allclose(CrossEntropy(LABELS)(LOGITS).numpy(), each_sample(cross_entropy, LABELS), rtol=1e-5)


def test_targeted_cross_entropy_is_its_equation():
    """Minus that of the target; the label plays no part."""
    expected = [-value for value in each_sample(cross_entropy, TARGETS)]
    np.testing.assert_allclose(CrossEntropy(LABELS).towards(TARGETS)(LOGITS).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 50.0])
def test_margin_is_its_equation(confidence):
    """Sample by sample, clipped or not."""
    expected = each_sample(lambda logits, label: margin(logits, label, confidence), LABELS)
    np.testing.assert_allclose(Margin(LABELS, confidence)(LOGITS).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_dlr_is_its_equation():
    """Sample by sample, for labels that are the largest logit and for others."""
    labels = LABELS.clone()
    labels[:2] = LOGITS[:2].argmax(dim=1)
    expected = each_sample(difference_of_logits_ratio, labels)
    assert min(expected) < 0 < max(expected)
    np.testing.assert_allclose(DLR(labels)(LOGITS).numpy(), expected, rtol=1e-5)


def test_targeted_dlr_is_its_equation():
    """Sample by sample."""
    expected = each_sample(targeted_difference_of_logits_ratio, LABELS, TARGETS)
    np.testing.assert_allclose(DLR(LABELS).towards(TARGETS)(LOGITS).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [DLR(LABELS), DLR(LABELS).towards(TARGETS)], ids=["untargeted", "targeted"])
def test_dlr_sees_neither_shift_nor_scale(loss):
    """So that the temperature of a CLIP model does not change what is climbed."""
    torch.testing.assert_close(loss(100 * LOGITS), loss(LOGITS))
    torch.testing.assert_close(loss(LOGITS / 100), loss(LOGITS))
    torch.testing.assert_close(loss(LOGITS - 5), loss(LOGITS), rtol=1e-4, atol=1e-5)


def test_equal_logits_give_a_finite_loss_and_gradient():
    """As a model gives that has collapsed: zero by zero is zero."""
    for loss in LABELLED:
        logits = torch.ones(5, 6, requires_grad=True)
        values = loss(logits)
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        assert values.isfinite().all()
        assert gradient.isfinite().all()


def test_losses_need_enough_classes():
    """With fewer there is nothing to compare."""
    with pytest.raises(ValueError, match="needs at least 2"):
        Margin(LABELS)(LOGITS[:, :1])
    labels, targets = torch.tensor([0, 1]), torch.tensor([1, 0])
    with pytest.raises(ValueError, match="DLR loss .* needs at least 3 classes, got 2; use cross_entropy"):
        DLR(labels)(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="targeted DLR loss .* at least 4 classes, got 3; use an untargeted loss"):
        DLR(labels).towards(targets)(torch.zeros(2, 3))
    assert DLR(labels)(torch.eye(2, 3)).shape == DLR(labels).towards(targets)(torch.eye(2, 4)).shape == (2,)


@pytest.mark.parametrize("loss", [CrossEntropy(LABELS), DLR(LABELS)], ids=["cross_entropy", "dlr"])
def test_targets_must_be_other_classes_one_for_each_sample(loss):
    """To aim at the label is to defend it."""
    with pytest.raises(ValueError, match=r"another class than the label; they are the same at positions \[1, 4\]"):
        loss.towards(torch.tensor([3, 2, 0, 0, 1]))
    with pytest.raises(ValueError, match=r"one class for each label, got \(1,\) for \(5,\)"):
        loss.towards(torch.tensor([3]))


def test_margin_has_no_targeted_form():
    """It says which losses have."""
    with pytest.raises(ValueError, match="Margin has no targeted form; use dlr or cross_entropy"):
        Margin(LABELS).towards(TARGETS)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_losses_are_float32_and_one_per_sample(loss, dtype):
    """Whatever the outputs are."""
    values = loss(LOGITS.to(dtype))
    assert (values.shape, values.dtype) == ((5,), torch.float32)
    torch.testing.assert_close(values, loss(LOGITS.to(dtype).double()))


@every_loss
@pytest.mark.parametrize("kept", [torch.tensor([3, 0]), torch.tensor([True, False, True, True, False])])
def test_losses_of_some_samples_are_those_of_all(loss, kept):
    """Indexing the loss is indexing its values and verdicts, with every parameter kept."""
    assert type(loss[kept]) is type(loss)
    torch.testing.assert_close(loss[kept](LOGITS[kept]), loss(LOGITS)[kept])
    assert torch.equal(loss[kept].fooled(LOGITS[kept]), loss.fooled(LOGITS)[kept])


@every_loss
def test_fooled_is_any_other_class(loss):
    """The target or another."""
    logits = LOGITS.clone()
    logits[0, LABELS[0]] = 99
    logits[1, TARGETS[1]] = 99
    assert loss.fooled(logits).tolist() == (logits.argmax(dim=1) != LABELS).tolist()
    assert loss.fooled(logits)[:2].tolist() == [False, True]


@pytest.mark.parametrize("name", LOSSES)
def test_registry_holds_losses_made_from_labels_alone(name):
    """Which is how protocols make them."""
    loss = LOSSES[name](LABELS)
    assert torch.equal(loss.labels, LABELS)
    assert loss(LOGITS).shape == (5,)
