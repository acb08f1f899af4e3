"""Margins by the distance of class texts, and cross-entropy with them."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from reference import tima as twin
from reference.differences import central_differences
from robust_clip.objectives.margins import MarginCrossEntropy, TextMargin, relative_margins, with_margins


@pytest.mark.parametrize("form", ["additive", "angular"])
def test_the_margin_loss_is_its_twin_with_its_gradient(form):
    random = np.random.default_rng(0)
    cosines, embeds = np.tanh(random.normal(size=(4, 3))), random.normal(size=(3, 6))
    margin, labels = 0.2 * twin.margins(embeds, offset=0.5), [2, 0, 1, 1]
    torch.testing.assert_close(0.2 * relative_margins(torch.tensor(embeds), offset=0.5), torch.tensor(margin).float())
    leaf = torch.tensor(cosines, requires_grad=True)
    logits = with_margins(8 * leaf, torch.tensor(margin)[labels], 8.0, form)
    loss = F.cross_entropy(logits, torch.tensor(labels))
    loss.backward()
    assert loss.item() == pytest.approx(twin.margin_loss(cosines, labels, margin, 8.0, form), rel=1e-5)
    numeric = central_differences(lambda x: twin.margin_loss(x, labels, margin, 8.0, form), cosines)
    np.testing.assert_allclose(leaf.grad.numpy(), numeric, rtol=1e-4, atol=1e-6)


def test_the_margin_grows_with_the_distance_of_texts():
    angles = torch.linspace(0, torch.pi, 7)
    embeds = torch.stack([angles.cos(), angles.sin()], dim=1)
    for kind in ("tam", "asam"):
        row = relative_margins(embeds, kind)[0]
        assert (row.diff() > 0).all()
        assert (row[0], row[-1]) == (0, 1)


def test_equal_distances_bear_equal_margins():
    for kind in ("tam", "asam"):
        torch.testing.assert_close(relative_margins(torch.eye(5), kind, 0.3), 1 - torch.eye(5))


def test_classes_of_one_prompt_bear_no_margin():
    embeds = F.normalize(torch.randn(40, 64))[torch.arange(120) % 40]
    for kind in ("tam", "asam"):
        margins = relative_margins(embeds, kind, offset=0.5)
        same = torch.arange(120)[:, None] % 40 == torch.arange(120)[None, :] % 40
        assert (margins[same] == 0).all()
        assert (margins[~same] > 0.5).all()
    assert (relative_margins(embeds[:1].expand(3, -1)) == 0).all()


def test_a_margin_makes_the_loss_larger_in_both_forms():
    cosines, margins = torch.rand(5, 4), 0.1 * torch.rand(5, 4)
    labels = torch.tensor([0, 1, 2, 3, 0])
    margins[torch.arange(5), labels] = 0
    plain = F.cross_entropy(10 * cosines, labels, reduction="none")
    for form in ("additive", "angular"):
        assert (MarginCrossEntropy(labels, margins, 10.0, form)(10 * cosines) > plain).all()


def test_what_a_recipe_writes():
    assert TextMargin.of({"size": 0.1, "kind": "asam"}) == TextMargin(size=0.1, kind="asam")
    assert TextMargin.of(TextMargin(offset=0.1)) == TextMargin(offset=0.1)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"sise": 1}, "a field of margin must be one of size, kind, form, offset, in_attack, couple, got 'sise'"),
        (0.1, "margin is a mapping of size, .*, got 0.1; set margin.size"),
        ({"size": -0.1}, "size must not be negative"),
        ({"offset": 2}, "offset is the share .* got 2"),
        ({"kind": "tma"}, "kind must be one of tam, asam, got 'tma'"),
        ({"form": "cos"}, "form must be one of additive, angular"),
    ],
)
def test_margins_that_make_no_sense_are_refused(given, complaint):
    with pytest.raises(ValueError, match=complaint):
        TextMargin.of(given)
