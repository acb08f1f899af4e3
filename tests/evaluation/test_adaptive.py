"""Attacks that climb an objective's loss are judged by predictions, and their protocol says what they are."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from robust_clip.attacks import (
    APGD,
    FAB,
    FGSM,
    PGD,
    VERSIONS,
    AttackRun,
    CarliniWagner,
    EmbeddingDistance,
    Square,
    sample_generators,
)
from robust_clip.evaluation import Protocol, evaluate_robustness, get_protocols
from robust_clip.evaluation.adaptive import climb_objective, judged
from robust_clip.threat_model import ThreatModel

LINF = ThreatModel("linf", 0.25)


class Brightness(nn.Module):
    """Class 1 for images that are bright on average; logits `(B, 2)`."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, pixels):
        mean = self.dropout(pixels).mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([-mean, mean], dim=1)


def darkness(pixels, labels):
    """Climbed is the distance from white, of outputs that are the images themselves."""
    return (lambda x: x), EmbeddingDistance(torch.ones_like(pixels))


def test_the_loss_and_its_gradient_are_those_that_are_climbed():
    pixels, labels = torch.rand(3, 3, 4, 5), torch.tensor([0, 1, 1])
    forward, loss = judged(darkness, Brightness().eval(), 2)(pixels, labels)
    pixels.requires_grad_()
    outputs = forward(pixels)
    assert torch.equal(loss(outputs), EmbeddingDistance(torch.ones_like(pixels))(pixels))
    (gradient,) = torch.autograd.grad(loss(outputs).sum(), pixels)
    torch.testing.assert_close(gradient, 2 * (pixels - 1).detach())
    assert torch.equal(loss.fooled(outputs), (pixels.mean(dim=(1, 2, 3)) > 0.5) != labels.bool())
    kept = torch.tensor([2, 0])
    assert torch.equal(loss[kept](outputs[kept]), loss(outputs)[kept])
    assert torch.equal(loss[kept].fooled(outputs[kept]), loss.fooled(outputs)[kept])


@pytest.mark.parametrize(
    "attack", [PGD(steps=40, stop_when_fooled=True), APGD(steps=40), Square(queries=99)], ids=lambda a: a.short_name
)
def test_a_sample_leaves_with_the_image_that_fools_it(attack):
    """Long before the search is over; and the victim is in eval mode meanwhile."""
    victim, pixels, labels, calls = Brightness(), torch.full((2, 3, 4, 4), 0.6), torch.tensor([1, 0]), []
    victim.register_forward_hook(lambda *_: calls.append(victim.training))
    forward, loss = judged(darkness, victim, 2)(pixels, labels)
    adversarial = attack(forward, pixels, loss, LINF, sample_generators(0, range(2)))
    assert 2 < len(calls) < 12
    assert not any(calls)
    assert victim.training
    assert (victim.eval()(adversarial).argmax(dim=1) != labels).all()


def test_attacks_that_can_climb_anything_climb_the_objective_once():
    attacks = (
        AttackRun(PGD(steps=2)),
        AttackRun(PGD(steps=2), "margin"),
        AttackRun(FGSM()),
        AttackRun(APGD(), "dlr", eot_samples=3),
        *VERSIONS["standard"][1:],
    )
    protocol = Protocol("mine", 2, attacks, LINF)
    adapted = climb_objective(protocol, "tecoa", "TeCoA()")
    assert list(map(str, adapted.attacks)) == [
        "pgd-objective",
        "fgsm-objective",
        "apgd-objective",
        "apgd_t-dlr",
        "fab_t-margin",
        "square-margin",
    ]
    assert adapted.attacks[2].eot_samples == 3
    assert (adapted.name, adapted.folder) == ("mine_objective_tecoa", "mine_objective_tecoa-v2-linf-0.25")
    assert adapted.as_dict()["objective"] == "TeCoA()"
    assert "objective's loss" in adapted.source


@pytest.mark.parametrize(
    "attack", [FAB(), CarliniWagner(), Square(), APGD(targets=9)], ids=lambda attack: attack.short_name
)
def test_an_attack_with_a_loss_of_its_own_is_left_alone(attack):
    protocol = Protocol("mine", 1, (AttackRun(attack, "dlr"),), ThreatModel("l2", 1))
    assert climb_objective(protocol, "tecoa", "TeCoA()") is protocol


def test_presets_are_adapted_where_they_can_be():
    image, text, both = get_protocols("mmcoa_leaf", objective=("tecoa", "TeCoA()"))
    assert (image.attack_names, text.objective) == (("1-pgd-objective",), None)
    assert (both.name, both.objective) == ("mmcoa_both_leaf_objective_tecoa", "TeCoA()")
    for name in ("clean", "square", "apgd_t", "cw_l2"):
        with pytest.raises(ValueError, match="no attack of protocol"):
            get_protocols(name, objective=("tecoa", "TeCoA()"))


def test_an_objective_and_attacks_that_climb_it_come_together(model, tokenizer, images, two_attacks):
    with pytest.raises(ValueError, match="has the attacks pgd-objective and the objective None"):
        replace(two_attacks, attacks=(AttackRun(PGD(), "objective"),))
    with pytest.raises(ValueError, match="has the attacks pgd-cross_entropy, pgd-margin and the objective TeCoA"):
        replace(two_attacks, objective="TeCoA()")
    with pytest.raises(ValueError, match="'short' climbs no objective: give the inner problem"):
        evaluate_robustness(model, tokenizer, images, two_attacks, inner_problem=lambda names, templates: darkness)
    adapted = climb_objective(two_attacks, "dark", "darkness")
    with pytest.raises(ValueError, match="'short_objective_dark' climbs darkness: give the inner problem"):
        evaluate_robustness(model, tokenizer, images, adapted)


def test_an_evaluation_climbs_what_it_is_given(model, tokenizer, images, two_attacks):
    def inner_problem(names, templates):
        assert (names, len(templates)) == (["red", "green", "blue"], 1)

        def problem(pixels, labels):
            met.append(len(pixels))
            return darkness(pixels, labels)

        return problem

    met = []
    adapted = climb_objective(replace(two_attacks, attacks=(AttackRun(PGD(steps=1)),)), "dark", "darkness")
    row = evaluate_robustness(model, tokenizer, images, adapted, inner_problem=inner_problem)
    assert (row.attacks, row.protocol["objective"]) == (["1-pgd-objective"], "darkness")
    assert sum(met) == round(row.clean_accuracy * row.n)
