"""The mathematics that objectives share, against their numpy twins and finite differences of these."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from reference import class_prompts, contrastive
from reference.differences import central_differences
from robust_clip.objectives.functional import class_logits, info_nce

GROUPS = {"distinct": [0, 1, 2, 3, 4], "pairs": [7, 3, 7, 3, 9], "one": [4, 4, 4, 4, 4]}


def arrays(*shapes, seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(size=shape) for shape in shapes]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_class_logits_are_scaled_cosines(scale):
    features, embeds = arrays((5, 8), (3, 8))
    logits = class_logits(torch.tensor(features), torch.tensor(unit(embeds)), torch.tensor(scale))
    expected = class_prompts.class_logits(features, embeds, scale)
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_class_logits_do_not_depend_on_the_length_of_the_features(size):
    features, embeds = (torch.tensor(array) for array in arrays((5, 8), (3, 8)))
    torch.testing.assert_close(class_logits(size * features, embeds, 1.0), class_logits(features, embeds, 1.0))


def test_half_precision_features_give_float32_logits():
    features, embeds = (torch.tensor(array).half() for array in arrays((5, 8), (3, 8)))
    expected = class_logits(features.float(), embeds.float(), 100.0)
    assert torch.equal(class_logits(features, embeds, 100.0), expected)
    assert expected.dtype == torch.float32


def test_class_logits_have_the_gradient_of_their_twin():
    features, embeds, weights = arrays((4, 6), (3, 6), (4, 3))
    embeds = unit(embeds)
    leaf = torch.tensor(features, dtype=torch.float32, requires_grad=True)
    (class_logits(leaf, torch.tensor(embeds), 10.0) * torch.tensor(weights)).sum().backward()
    numeric = central_differences(lambda x: (class_prompts.class_logits(x, embeds, 10.0) * weights).sum(), features)
    np.testing.assert_allclose(leaf.grad.numpy(), numeric, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_info_nce_is_its_twin(groups, scale):
    (logits,) = arrays((5, 5))
    loss = info_nce(torch.tensor(scale * logits), torch.tensor(groups))
    assert loss.item() == pytest.approx(contrastive.info_nce(scale * logits, groups), rel=1e-5)


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_info_nce_has_the_gradient_of_its_twin(groups):
    (logits,) = arrays((5, 5))
    leaf = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    info_nce(leaf, torch.tensor(groups)).backward()
    numeric = central_differences(lambda x: contrastive.info_nce(x, groups), logits)
    np.testing.assert_allclose(leaf.grad.numpy(), numeric, atol=1e-5)


def test_info_nce_of_distinct_captions_is_clips_loss():
    """The pseudocode of CLIP's Figure 3: cross-entropy with the diagonal as labels, both ways."""
    logits, labels = torch.randn(5, 5), torch.arange(5)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(info_nce(logits, labels), expected)


def test_info_nce_knows_groups_by_equality_only_and_not_by_order():
    logits, groups = torch.randn(5, 5), torch.tensor(GROUPS["pairs"])
    order = torch.randperm(5)
    loss = info_nce(logits, groups)
    torch.testing.assert_close(info_nce(logits, 100 - groups), loss)
    torch.testing.assert_close(info_nce(logits[order][:, order], groups[order]), loss)
    torch.testing.assert_close(info_nce(logits.T, groups), loss)


def test_degenerate_batches():
    """One pair is always right; one group in which all look alike is a toss-up among all."""
    assert info_nce(torch.tensor([[-3.0]]), torch.tensor([5])).item() == 0
    assert info_nce(torch.full((6, 6), 2.5), torch.zeros(6)).item() == pytest.approx(math.log(6), rel=1e-6)


def test_one_class_leaves_nothing_to_learn():
    features = torch.randn(4, 8, requires_grad=True)
    loss = F.cross_entropy(class_logits(features, F.normalize(torch.randn(1, 8)), 100.0), torch.zeros(4).long())
    loss.backward()
    assert loss.item() == 0
    assert features.grad.abs().max() == 0
