"""LEAF: attacked texts keep the frozen original's features of the clean ones."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from reference.differences import central_differences
from robust_clip.objectives import LEAF


def test_leaf_is_its_twin(tiny_model, pairs):
    teacher = copy.deepcopy(tiny_model)
    torch.nn.init.normal_(tiny_model.text_projection.weight)
    loss = LEAF()(tiny_model, teacher, pairs)["leaf"]
    attacked = tiny_model.encode_text(pairs.attacked_ids, pairs.attacked_mask).detach().double().numpy()
    clean = teacher.encode_text(pairs.input_ids, pairs.attention_mask).detach().double().numpy()
    total = sum(sum((a - b) ** 2 for a, b in zip(attacked[i], clean[i], strict=True)) for i in pairs.text_index)
    assert loss.item() == pytest.approx(total / len(pairs.text_index), rel=1e-5)


def test_gradient_is_the_finite_differences(tiny_model, pairs):
    """To the features' map, of what the twin computes from it."""
    teacher, weight = copy.deepcopy(tiny_model), tiny_model.text_projection.weight
    torch.nn.init.normal_(weight)
    LEAF()(tiny_model, teacher, pairs)["leaf"].backward()
    pooled = tiny_model.text_model(pairs.attacked_ids, pairs.attacked_mask).pooler_output.detach().double().numpy()
    clean = teacher.encode_text(pairs.input_ids, pairs.attention_mask).detach().double().numpy()
    rows = pairs.text_index.numpy()

    def twin(projection):
        return np.mean([((projection @ pooled[row] - clean[row]) ** 2).sum() for row in rows])

    expected = central_differences(twin, weight.detach().double().numpy())
    np.testing.assert_allclose(weight.grad.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_unattacked_texts_of_the_original_cost_nothing(tiny_model, pairs):
    unattacked = replace(pairs, attacked_ids=pairs.input_ids, attacked_mask=pairs.attention_mask)
    assert LEAF()(tiny_model, copy.deepcopy(tiny_model), unattacked)["leaf"].item() == pytest.approx(0, abs=1e-9)


def test_only_the_students_text_tower_gets_a_gradient(tiny_model, pairs):
    teacher = copy.deepcopy(tiny_model)
    LEAF()(tiny_model, teacher, pairs)["leaf"].backward()
    learning = {name for name, p in tiny_model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert learning
    assert all(name.startswith(("text_model.", "text_projection.")) for name in learning)
    assert all(p.grad is None for p in teacher.parameters())


def test_attack_on_texts_climbs_the_loss(tiny_model, pairs):
    """From the original's features, not from the student's own."""
    teacher = copy.deepcopy(tiny_model)
    torch.nn.init.normal_(tiny_model.text_projection.weight)
    score = LEAF().text_score(teacher, pairs)
    features = tiny_model.encode_text(pairs.input_ids, pairs.attention_mask).detach()
    clean = teacher.encode_text(pairs.input_ids, pairs.attention_mask).detach().numpy()
    expected = ((features.numpy() - clean[[2, 0, 1]]) ** 2).sum(axis=1)
    assert np.allclose(score(features, torch.tensor([2, 0, 1])), expected, rtol=1e-5)


def test_what_is_missing_is_refused(tiny_model, pairs):
    with pytest.raises(ValueError, match="give captions and a text attack"):
        LEAF()(tiny_model, tiny_model, replace(pairs, attacked_ids=None))
    with pytest.raises(ValueError, match="give it as the teacher"):
        LEAF()(tiny_model, None, pairs)
    with pytest.raises(ValueError, match="this batch has neither"):
        LEAF().text_score(tiny_model, replace(pairs, input_ids=None))
