"""Losses on embeddings against their equations, restated in plain numpy."""

import numpy as np
import pytest
import torch

from robust_clip.attacks.embedding import EMBEDDING_LOSSES, EmbeddingDistance

OUTPUTS, REFERENCE = torch.randn(2, 5, 7, 3, generator=torch.Generator().manual_seed(0))
FEATURES, CLEAN = OUTPUTS.flatten(1), REFERENCE.flatten(1)


def made(name):
    """A loss of the registry, of vectors."""
    return EMBEDDING_LOSSES[name](*([CLEAN] if name == "embedding_distance" else [CLEAN, CLEAN.flip(0)]))


def test_embedding_distance_is_its_equation():
    """Summed over everything but the sample: token embeddings too."""
    expected = ((OUTPUTS.double() - REFERENCE.double()) ** 2).numpy().sum(axis=(1, 2))
    np.testing.assert_allclose(EmbeddingDistance(REFERENCE)(OUTPUTS).numpy(), expected, rtol=1e-5)


def test_embedding_distance_needs_one_reference_for_each_output():
    """Broadcasting would compare every sample with one."""
    with pytest.raises(ValueError, match=r"same shape, got \(4, 7, 3\) and \(5, 7, 3\)"):
        EmbeddingDistance(REFERENCE)(OUTPUTS[:4])


@pytest.mark.parametrize("name", EMBEDDING_LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_losses_are_float32_and_one_per_sample(name, dtype):
    """Whatever the outputs are."""
    values = made(name)(FEATURES.to(dtype))
    assert (values.shape, values.dtype) == ((5,), torch.float32)
    assert (values > 0).all()


@pytest.mark.parametrize("name", EMBEDDING_LOSSES)
@pytest.mark.parametrize("kept", [torch.tensor([3, 0]), torch.tensor([True, False, True, True, False])])
def test_losses_of_some_samples_are_those_of_all(name, kept):
    """Indexing the loss is indexing its values."""
    loss = made(name)
    torch.testing.assert_close(loss[kept](FEATURES[kept]), loss(FEATURES)[kept])


@pytest.mark.parametrize("name", EMBEDDING_LOSSES)
def test_embeddings_have_neither_labels_nor_targets(name):
    """Nothing says that a sample is fooled, and there is no class to aim at."""
    loss = made(name)
    assert loss.fooled(FEATURES) is None
    with pytest.raises(ValueError, match=f"{type(loss).__name__} has no targeted form; use dlr or cross_entropy"):
        loss.towards(torch.zeros(5, dtype=torch.long))
