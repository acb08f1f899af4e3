"""APGD against optima known in closed form, and what it promises about its ends and its cost."""

import dataclasses

import numpy as np
import pytest
import torch

from robust_clip.attacks.apgd import APGD, checkpoints
from robust_clip.attacks.base import sample_generators
from robust_clip.attacks.embedding import EmbeddingDistance
from robust_clip.attacks.losses import DLR, AttackLoss, CrossEntropy
from robust_clip.attacks.pgd import PGD
from robust_clip.threat_model import ThreatModel
from tests.reference.ascent import Unlabelled, best_change

THREATS = [ThreatModel("linf", "8/255"), ThreatModel("l2", 0.5)]
every_threat = pytest.mark.parametrize("threat_model", THREATS, ids=str)


class Sum(AttackLoss):
    """The outputs themselves."""

    def __call__(self, outputs):
        return outputs.reshape(len(outputs), -1).sum(dim=1)

    def __getitem__(self, kept):
        return self


@pytest.fixture
def watched(network):
    """The network with the record of its calls: pixels, and whether a gradient was wanted."""
    calls = []

    def record(module, inputs, output):
        calls.append((inputs[0].detach().clone(), output.requires_grad))

    network.register_forward_hook(record)
    return network, calls


def run(attack, forward, pixels, loss, threat_model, seed=0, **options):
    """One attack on samples 0, 1, 2, ... of a data set."""
    return attack(forward, pixels, loss, threat_model, sample_generators(seed, range(len(pixels))), **options)


@pytest.mark.parametrize(
    "threat_model",
    [ThreatModel("linf", "8/255"), ThreatModel("linf", 0.5), ThreatModel("l2", 0.5), ThreatModel("l2", 2)],
    ids=str,
)
@pytest.mark.parametrize("box", ["inactive", "active"])
def test_linear_victim_falls_to_its_optimum(threat_model, box, linear_victim, images):
    """The image reached is the one maximum, in the middle of the box and against its faces."""
    pixels = images(3, 5, 7)
    if box == "inactive":
        pixels = pixels * 0.1 + 0.45
        threat_model = dataclasses.replace(threat_model, epsilon=threat_model.epsilon / 10)
    victim = linear_victim(5, 7)
    direction = (victim.weight[1] - victim.weight[0]).detach()
    adversarial = run(APGD(), lambda pixels: pixels * direction, pixels, Sum(), threat_model)
    for image, clean in zip(adversarial.double().numpy(), pixels.double().numpy(), strict=True):
        expected = clean + best_change(direction.double().numpy(), clean, threat_model)
        np.testing.assert_allclose(image, expected, rtol=0, atol=1e-3 * threat_model.epsilon)


def test_steps_halve_and_restart_from_the_best_where_the_loss_does_not_rise(images):
    """A false gradient lets the loss fall, so that the start stays the best and every checkpoint halves.

    The step after it is known in closed form.
    """
    pixels, threat_model, iterates = images(3) * 0.2 + 0.4, ThreatModel("linf", "8/255"), []

    def forward(pixels):
        iterates.append(pixels.detach().clone())
        away = (pixels.detach() - iterates[0]).abs()
        return pixels - pixels.detach() - away

    adversarial = run(APGD(), forward, pixels, Sum(), threat_model)
    start, top = iterates[0], pixels + threat_model.epsilon
    assert torch.equal(adversarial, start)
    torch.testing.assert_close(iterates[1], top)
    for halvings, mark in enumerate(checkpoints(100), start=1):
        ahead = (start + 2 * threat_model.epsilon / 2**halvings).minimum(top)
        expected = start + 0.75 * (ahead - start) + 0.25 * (start - iterates[mark - 1])
        torch.testing.assert_close(iterates[mark + 1], expected.clamp(pixels - threat_model.epsilon, top))
    assert len(iterates) == 101


@pytest.mark.parametrize(("rises", "halved"), [(12, True), (13, False)])
def test_steps_halve_at_three_quarters_of_rises_and_not_above(rises, halved, images):
    """As the authors' code compares; in the third period, of 16 steps, after one that was halved for want of rises."""
    script = [99, *[0] * 41, *range(1, rises + 1), *[rises] * 99]
    pixels, threat_model, iterates = images(1) * 0.2 + 0.4, ThreatModel("linf", "8/255"), []

    def forward(pixels):
        iterates.append(pixels.detach().clone())
        return (pixels - pixels.detach()).flatten(1).sum(dim=1) + script[len(iterates) - 1]

    run(APGD(), forward, pixels, Sum(), threat_model)
    at_the_top = (iterates[58] - pixels - threat_model.epsilon).abs().max() < 1e-6
    assert at_the_top != halved


@every_threat
def test_an_optimum_inside_the_ball_is_reached_by_halving(threat_model, images):
    """Steps of 2 epsilon jump to and fro over it; a search of as many steps that never halves stays far away."""
    pixels = images(4) * 0.2 + 0.4
    centre = threat_model.random_start(pixels, sample_generators(7, range(4)))

    def distances(attack):
        loss = Sum()
        end = run(attack, lambda pixels: -(pixels - centre).square(), pixels, loss, threat_model)
        return threat_model.distance(end, centre) / threat_model.epsilon

    assert (distances(APGD()) < 0.03).all()
    assert (distances(PGD(steps=100, step_size=2 * threat_model.epsilon)) > 0.5).all()


@every_threat
def test_no_weaker_than_as_many_steps_of_pgd(threat_model, network, images):
    """On a victim whose gradient turns; from the same starts."""
    pixels = images(16, 5, 5)
    loss = CrossEntropy(network(pixels).argmax(dim=1))
    losses, standing = [], []
    for attack in (APGD(steps=20), PGD(steps=20)):
        losses.append(loss(network(run(attack, network, pixels, Unlabelled(loss), threat_model))).detach())
        fooled = loss.fooled(network(run(attack, network, pixels, loss, threat_model)))
        standing.append(int((~fooled).sum()))
    assert (losses[0] >= losses[1] - 1e-3).all()
    assert losses[0].sum() > losses[1].sum() + 1e-3
    assert standing[0] <= standing[1]


@pytest.mark.parametrize("threat_model", [ThreatModel("linf", "8/255"), ThreatModel("l2", 0.2)], ids=str)
@pytest.mark.parametrize("labelled", [True, False])
def test_the_end_is_the_first_iterate_that_fools_else_the_highest(threat_model, labelled, watched, images):
    """Of all that the model saw, sample by sample."""
    network, calls = watched
    pixels = images(8, 5, 5)
    outputs = network(pixels).detach()
    ends = []
    for index in range(8):
        one = slice(index, index + 1)
        loss = CrossEntropy(outputs[one].argmax(dim=1)) if labelled else EmbeddingDistance(outputs[one])
        calls.clear()
        generators = sample_generators(0, [index])
        adversarial = APGD(steps=20)(network, pixels[one], loss, threat_model, generators)
        seen = [image for image, wants_gradient in calls if wants_gradient]
        verdicts = [labelled and bool(loss.fooled(network(image))) for image in seen]
        losses = [loss(network(image)).item() for image in seen]
        chosen = verdicts.index(True) if any(verdicts) else int(np.argmax(losses))
        assert torch.equal(adversarial, seen[chosen])
        assert len(seen) == (chosen + 1 if any(verdicts) else 21)
        looks = [image for image, wants_gradient in calls if not wants_gradient]
        assert len(looks) == any(verdicts)
        assert all(torch.equal(image, seen[chosen]) for image in looks)
        ends.append(any(verdicts))
    assert not labelled or 0 < sum(ends) < 8


@pytest.mark.parametrize("targets", [None, 3])
def test_only_standing_samples_cost_passes(targets, watched, images):
    """Each step holds the samples that need it when they are attacked alone, and none is made for nothing."""
    network, calls = watched
    pixels, threat_model = images(12, 5, 5), ThreatModel("linf", "2/255")
    labels = network(pixels).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 6
    attack = APGD(steps=10, targets=targets, restarts=2)
    alone = []
    for index in range(12):
        calls.clear()
        one = slice(index, index + 1)
        attack(network, pixels[one], DLR(labels[one]), threat_model, sample_generators(0, [index]))
        alone.append(sum(wants_gradient for _, wants_gradient in calls))
    calls.clear()
    adversarial = run(attack, network, pixels, DLR(labels), threat_model)
    steps, looks = ([len(image) for image, wants in calls if wants == kind] for kind in (True, False))
    assert steps == [sum(count > step for count in alone) for step in range(attack.gradient_passes)]
    assert len(set(alone)) > 3
    # Without a gradient: the clean images, whose classes are ranked, and one more look at each sample that leaves.
    fooled = (network(adversarial).argmax(dim=1) != labels).sum()
    assert sum(looks) == fooled + (12 if targets else 0)


@every_threat
@pytest.mark.parametrize("targets", [None, 1])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_images_are_the_same_in_batches_that_refill(batch_size, targets, threat_model, curved_victim, images):
    """Bit for bit; each step makes as few batches as those that stand fill."""
    victim, pixels, sizes = curved_victim(8, 8).eval(), images(16), []
    victim.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    loss = CrossEntropy(victim(pixels).argmax(dim=1))
    attack = APGD(steps=8, restarts=2, targets=targets)
    sizes.clear()
    expected = run(attack, victim, pixels, loss, threat_model)
    together = sizes[:]
    sizes.clear()
    assert torch.equal(run(attack, victim, pixels, loss, threat_model, batch_size=batch_size), expected)
    assert sizes == [len(part) for size in together for part in torch.arange(size).split(batch_size)]
    assert together[-1] < 16


@pytest.mark.parametrize("labelled", [True, False])
def test_restarts_keep_the_first_that_fools_else_the_highest(labelled, network, images):
    """Compared with the same searches run one after another."""
    pixels, threat_model = images(12, 5, 5), ThreatModel("linf", "12/255")
    outputs = network(pixels).detach()
    loss = CrossEntropy(outputs.argmax(dim=1)) if labelled else EmbeddingDistance(outputs)
    adversarial = run(APGD(steps=1, restarts=4), network, pixels, loss, threat_model)
    generators = sample_generators(0, range(12))
    ends = torch.stack([APGD(steps=1)(network, pixels, loss, threat_model, generators) for _ in range(4)])
    losses = torch.stack([loss(network(end)) for end in ends])
    scores = losses.masked_fill(torch.stack([loss.fooled(network(end)) for end in ends]), 1e9) if labelled else losses
    chosen = scores.argmax(dim=0)
    torch.testing.assert_close(adversarial, ends[chosen, torch.arange(12)])
    assert len(set(chosen.tolist())) > 2


def test_gradients_are_averaged_over_draws(watched, images):
    """As many passes for each gradient as the caller asks for, and one clean ranking from as many."""
    network, calls = watched
    loss = CrossEntropy(network(images(2, 5, 5)).argmax(dim=1))
    for targets, passes in ((None, 3 * 6), (2, 3 * (6 * 2 + 1))):
        calls.clear()
        run(APGD(steps=5, targets=targets), network, images(2, 5, 5), loss, ThreatModel("linf", 0), eot_samples=3)
        assert len(calls) == passes


def test_apgd_is_a_value():
    """Its fields are what a row prints, and its name says whether it is targeted."""
    attack = APGD(targets=9)
    assert dataclasses.asdict(attack) == {"steps": 100, "restarts": 1, "targets": 9, "rho": 0.75}
    assert (attack.short_name, APGD().short_name) == ("apgd_t", "apgd")
    assert (attack.gradient_passes, APGD(restarts=5).gradient_passes) == (909, 505)
    assert attack.paper.url.endswith("2003.01690")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "APGD steps must be an integer >= 1, got 0"),
        ({"steps": 2.5}, "APGD steps must be an integer >= 1, got 2.5"),
        ({"restarts": True}, "APGD restarts must be an integer >= 1, got True"),
        ({"targets": 0}, "APGD targets must be an integer >= 1, or None for the untargeted form, got 0"),
        ({"rho": 1.0}, r"APGD rho is a share of steps, strictly between 0 and 1 \(0.75\), got 1.0"),
        ({"rho": "0.75"}, "APGD rho is a share of steps"),
        ({"rho": float("nan")}, "APGD rho is a share of steps"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    """At construction, before any model is loaded."""
    with pytest.raises(ValueError, match=message):
        APGD(**fields)
