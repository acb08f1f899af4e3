"""PGD against optima known in closed form, and when it stops."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from robust_clip.attacks import PGD, CrossEntropy, EmbeddingDistance, Margin, sample_generators
from robust_clip.threat_model import ThreatModel
from tests.reference.ascent import best_change


@pytest.mark.parametrize(
    "threat_model",
    [ThreatModel("linf", "8/255"), ThreatModel("linf", 0.5), ThreatModel("l2", 0.5), ThreatModel("l2", 2)],
    ids=str,
)
@pytest.mark.parametrize("box", ["inactive", "active"])
@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize(("batch", "loss_type"), [(1, CrossEntropy), (3, Margin), (8, CrossEntropy)])
def test_linear_victim_falls_to_its_optimum(threat_model, box, random_start, loss_type, batch, linear_victim, images):
    """The image reached is the one maximum, in the middle of the box and against its faces."""
    pixels = images(batch, 5, 7)
    if box == "inactive":
        pixels = pixels * 0.1 + 0.45
        threat_model = dataclasses.replace(threat_model, epsilon=threat_model.epsilon / 10)
    victim, labels = linear_victim(5, 7), torch.arange(batch) % 2
    attack = PGD(steps=30, step_size=threat_model.epsilon, random_start=random_start)
    adversarial = attack(victim, pixels, loss_type(labels), threat_model, sample_generators(0, range(batch)))
    weight = victim.weight.detach().double().numpy()
    for image, clean, label in zip(adversarial.double().numpy(), pixels.double().numpy(), labels, strict=True):
        expected = clean + best_change(weight[1 - label] - weight[label], clean, threat_model)
        np.testing.assert_allclose(image, expected, atol=2e-5)


def test_default_step_is_a_quarter_of_epsilon(linear_victim, images):
    """One step from the clean image moves every free pixel by epsilon / 4."""
    pixels = images(2) * 0.1 + 0.45
    loss, threat_model = CrossEntropy(torch.tensor([0, 1])), ThreatModel("linf", "4/255")
    for attack in (PGD(steps=1, random_start=False), PGD(steps=1, random_start=False, step_size="1/255")):
        adversarial = attack(linear_victim(8, 8), pixels, loss, threat_model, sample_generators(0, range(2)))
        torch.testing.assert_close((adversarial - pixels).abs() * 255, torch.ones_like(pixels), rtol=1e-4, atol=0)


def test_pgd_is_a_value():
    """Text and number give the same attack, and its fields are what a row prints."""
    attack = PGD(steps=2, step_size="1/255")
    assert attack == PGD(steps=2, step_size=1 / 255)
    assert dataclasses.asdict(attack) == {
        "steps": 2,
        "step_size": 1 / 255,
        "random_start": True,
        "restarts": 1,
        "stop_when_fooled": False,
    }
    assert attack.paper.url.endswith("1706.06083")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "PGD steps must be an integer >= 1, got 0"),
        ({"steps": 2.5}, "PGD steps must be an integer >= 1, got 2.5"),
        ({"restarts": True}, "PGD restarts must be an integer >= 1, got True"),
        ({"restarts": 2, "random_start": False}, "restarts=2 without random_start repeats one search"),
        ({"step_size": "a lot"}, "a size must be a number"),
        ({"step_size": 0}, "step_size 0 never moves"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    """At construction, before any model is loaded."""
    with pytest.raises(ValueError, match=message):
        PGD(**fields)


def test_step_size_in_255ths_is_refused_with_the_hint(linear_victim, images):
    """`step_size: 1` is how the papers' scripts write 1/255."""
    loss, generators = CrossEntropy(torch.tensor([0])), sample_generators(0, [0])
    with pytest.raises(ValueError, match=r"must be below 1 for linf, got 1: did you mean 1/255\?"):
        PGD(step_size=1)(linear_victim(8, 8), images(1), loss, ThreatModel("linf", "4/255"), generators)


def test_samples_leave_when_they_are_fooled(linear_victim, images):
    """Each gets the first iterate that fools it, and costs nothing from then on."""
    victim, pixels, threat_model = linear_victim(8, 8), images(8), ThreatModel("linf", "16/255")
    loss = CrossEntropy(victim(pixels).argmax(dim=1))
    loss.labels[0] = 1 - loss.labels[0]
    sizes = []
    victim.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))

    def run(steps, stop):
        attack = PGD(steps=steps, step_size="1/255", random_start=False, stop_when_fooled=stop)
        return attack(victim, pixels, loss, threat_model, sample_generators(0, range(8)))

    stopped = run(12, stop=True)
    active = sizes[:]
    iterates = [pixels, *(run(steps, stop=False) for steps in range(1, 13))]
    fooled = torch.stack([loss.fooled(victim(iterate)) for iterate in iterates])
    for index in range(8):
        when = fooled[:, index].nonzero()
        first = int(when[0]) if len(when) else 12
        assert torch.equal(stopped[index], iterates[first][index])
    standing = (~fooled).cumprod(dim=0).sum(dim=1).tolist()
    assert torch.equal(stopped[0], pixels[0])
    assert standing[0] == 7
    expected = []
    for size, left in pairwise([8, *standing[:12]]):
        # A pass for all that stand, and one more for those that seem to fall.
        expected += [size] * bool(size) + [size - left] * (size > left)
    assert active == expected
    assert len(set(standing)) > 3


def test_a_lucky_draw_does_not_end_the_search(linear_victim, images):
    """A model that draws lots is asked twice before a sample leaves."""

    class Flickering(linear_victim):
        calls = 0

        def forward(self, pixels):
            self.calls += 1
            logits = super().forward(pixels)
            return logits.flip(1) if self.calls == 1 else logits

    victim, pixels = Flickering(8, 8), images(4)
    labels = linear_victim(8, 8)(pixels).argmax(dim=1)
    attack = PGD(steps=6, step_size="4/255", stop_when_fooled=True, random_start=False)
    allowed = ThreatModel("linf", 0.5)
    adversarial = attack(victim, pixels, CrossEntropy(labels), allowed, sample_generators(0, range(4)))
    assert (linear_victim(8, 8)(adversarial).argmax(dim=1) != labels).all()


def test_stopping_needs_labels(linear_victim, images):
    """A distance has nothing to be fooled."""
    with pytest.raises(ValueError, match="stop_when_fooled needs a loss with labels, got EmbeddingDistance"):
        PGD(stop_when_fooled=True)(
            linear_victim(8, 8),
            images(1),
            EmbeddingDistance(torch.zeros(1, 2)),
            ThreatModel("linf", "4/255"),
            sample_generators(0, [0]),
        )


@pytest.mark.parametrize(("labelled", "stop_when_fooled"), [(True, True), (True, False), (False, False)])
def test_restarts_keep_the_first_that_fools_else_the_highest(labelled, stop_when_fooled, curved_victim, images):
    """Compared with the same searches run one after another."""
    victim, pixels, threat_model = curved_victim(8, 8).eval(), images(8), ThreatModel("linf", "24/255")
    outputs = victim(pixels).detach()
    loss = CrossEntropy(outputs.argmax(dim=1)) if labelled else EmbeddingDistance(outputs)
    single = PGD(steps=1, stop_when_fooled=stop_when_fooled)
    adversarial = dataclasses.replace(single, restarts=4)(
        victim, pixels, loss, threat_model, sample_generators(0, range(8))
    )
    generators = sample_generators(0, range(8))
    ends = [single(victim, pixels, loss, threat_model, generators) for _ in range(4)]
    losses = torch.stack([loss(victim(end)) for end in ends]).detach()
    verdicts = torch.stack([loss.fooled(victim(end)) for end in ends]) if labelled else losses < 0
    assert not labelled or 0 < verdicts.any(dim=0).sum() < 8
    for index in range(8):
        won = verdicts[:, index].nonzero()
        chosen = int(won[0]) if len(won) else int(losses[:, index].argmax())
        assert torch.equal(adversarial[index], ends[chosen][index])
