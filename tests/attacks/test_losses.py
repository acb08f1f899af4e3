"""Each loss against its equation, restated in plain numpy."""

import numpy as np
import pytest
import torch

from robust_clip.attacks.losses import LOSSES, CrossEntropy, EmbeddingDistance, Margin

LABELS = torch.tensor([0, 2, 4, 1, 1])
LOGITS = 3 * torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def cross_entropy(logits, label):
    """-log softmax(z)_y."""
    return np.log(np.exp(logits - logits[label]).sum())


def margin(logits, label, confidence):
    """-relu(z_y - max_{j != y} z_j + confidence)."""
    return -max(logits[label] - np.delete(logits, label).max() + confidence, 0)


def test_cross_entropy_is_its_equation():
    """Sample by sample."""
    expected = [cross_entropy(row, label) for row, label in zip(LOGITS.double().numpy(), LABELS, strict=True)]
    np.testing.assert_allclose(CrossEntropy(LABELS)(LOGITS).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 50.0])
def test_margin_is_its_equation(confidence):
    """Sample by sample, clipped or not."""
    expected = [margin(row, label, confidence) for row, label in zip(LOGITS.double().numpy(), LABELS, strict=True)]
    np.testing.assert_allclose(Margin(LABELS, confidence)(LOGITS).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_margin_needs_two_classes():
    """With one class there is no other to push up."""
    with pytest.raises(ValueError, match="needs at least 2"):
        Margin(LABELS)(LOGITS[:, :1])


def test_embedding_distance_is_its_equation():
    """Summed over everything but the sample: token embeddings too."""
    outputs, reference = torch.randn(2, 5, 7, 3, generator=torch.Generator().manual_seed(0))
    expected = ((outputs.double() - reference.double()) ** 2).numpy().sum(axis=(1, 2))
    np.testing.assert_allclose(EmbeddingDistance(reference)(outputs).numpy(), expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"same shape, got \(4, 7, 3\) and \(5, 7, 3\)"):
        EmbeddingDistance(reference)(outputs[:4])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_losses_are_float32_and_one_per_sample(name, dtype):
    """Whatever the outputs are."""
    loss = LOSSES[name](LOGITS if name == "embedding_distance" else LABELS)
    values = loss(LOGITS.to(dtype) + 1)
    assert (values.shape, values.dtype) == ((5,), torch.float32)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kept", [torch.tensor([3, 0]), torch.tensor([True, False, True, True, False])])
def test_losses_of_some_samples_are_those_of_all(name, kept):
    """Indexing the loss is indexing its values, with every parameter kept."""
    data = LOGITS + 2 if name == "embedding_distance" else LABELS
    loss = Margin(LABELS, confidence=2.0) if name == "margin" else LOSSES[name](data)
    torch.testing.assert_close(loss[kept](LOGITS[kept]), loss(LOGITS)[kept])


def test_fooled_is_any_other_class():
    """Losses with labels know; embeddings do not."""
    expected = (LOGITS.argmax(dim=1) != LABELS).tolist()
    assert CrossEntropy(LABELS).fooled(LOGITS).tolist() == expected
    assert Margin(LABELS).fooled(LOGITS).tolist() == expected
    assert EmbeddingDistance(LOGITS).fooled(LOGITS) is None
