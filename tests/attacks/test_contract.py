"""What holds for every attack: a new one adds a row to `CONTRACT`."""

import dataclasses
import itertools

import pytest
import torch

from robust_clip.attacks import (
    APGD,
    ATTACKS,
    FAB,
    FGSM,
    LOSSES,
    PGD,
    AttackRun,
    AutoAttack,
    CarliniWagner,
    CrossEntropy,
    EmbeddingDistance,
    Square,
    sample_generators,
)
from robust_clip.attacks.base import Problem
from robust_clip.paper import Paper
from robust_clip.threat_model import ThreatModel

CONTRACT = [
    FGSM(),
    FGSM(random_start=True),
    PGD(steps=3),
    PGD(steps=3, step_size="1/255", random_start=False),
    PGD(steps=3, stop_when_fooled=True),
    PGD(steps=2, restarts=3),
    PGD(steps=2, restarts=3, stop_when_fooled=True),
    APGD(steps=4),
    APGD(steps=3, restarts=2),
    APGD(steps=3, restarts=2, targets=1),
    Square(queries=20),
    Square(queries=6, restarts=2),
    FAB(steps=3, targets=1, restarts=2),
    FAB(steps=3, targets=None),
    CarliniWagner(steps=3, binary_search_steps=2, initial_const=1.0),
    AutoAttack(version="custom", runs=(AttackRun(APGD(steps=2)), AttackRun(Square(queries=5), "margin"))),
]
LINF, L2 = THREATS = [ThreatModel("linf", "8/255"), ThreatModel("l2", 0.5)]
NORMS = {CarliniWagner: (L2,)}
PAIRS = [pair for pair in itertools.product(CONTRACT, THREATS) if pair[1] in NORMS.get(type(pair[0]), THREATS)]

every_attack = pytest.mark.parametrize(
    ("attack", "threat_model"), [pair for pair in PAIRS if pair[1] is NORMS.get(type(pair[0]), THREATS)[0]], ids=repr
)
every_attack_and_threat = pytest.mark.parametrize(("attack", "threat_model"), PAIRS, ids=str)


def needs_labels(attack):
    """Whether a search makes no sense without classes."""
    return isinstance(attack, AutoAttack | CarliniWagner | FAB) or bool(getattr(attack, "targets", None))


def labels_of(pixels):
    """Half of the samples of each class."""
    return torch.arange(len(pixels)) % 2


def state_of(module):
    """Everything about a module that an attack must leave alone."""
    flags = [(name, part.training) for name, part in module.named_modules()]
    values = {name: value.clone() for name, value in module.state_dict().items()}
    parameters = [(name, value.requires_grad, value.grad) for name, value in module.named_parameters()]
    return flags, parameters, values


def assert_unchanged(module, before):
    """Compare flags, gradients and values with those of before."""
    flags, parameters, values = state_of(module)
    assert flags == before[0]
    assert parameters == before[1]
    assert all(gradient is None for _, _, gradient in parameters)
    assert all(torch.equal(value, before[2][name]) for name, value in values.items())


def test_the_table_holds_every_attack():
    """An attack without a row here is not held to the contract."""
    assert {type(attack) for attack in CONTRACT} == set(ATTACKS.values())
    assert all(isinstance(attack.paper, Paper) for attack in ATTACKS.values())


@every_attack_and_threat
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 8, 8), (3, 5, 7), (8, 1, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_result_is_an_image_of_the_threat_model(
    attack, threat_model, batch, height, width, dtype, curved_victim, images
):
    """Shape, type, ball and box, over odd sizes; the clean images are not written to."""
    pixels = images(batch, height, width, dtype)
    before = pixels.clone()
    loss = CrossEntropy(labels_of(pixels))
    generators = sample_generators(0, range(batch))
    adversarial = attack(curved_victim(height, width).to(dtype), pixels, loss, threat_model, generators)
    assert (adversarial.shape, adversarial.dtype) == (pixels.shape, dtype)
    assert not adversarial.requires_grad
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert (threat_model.distance(adversarial, pixels) <= threat_model.epsilon + 1e-6).all()
    assert torch.equal(pixels, before)
    assert adversarial.data_ptr() != pixels.data_ptr()


@every_attack
@pytest.mark.parametrize("entrance", ["module", "method"])
def test_the_model_is_left_as_it_was(attack, threat_model, entrance, curved_victim, images):
    """Eval mode meanwhile, then every flag, gradient and buffer as before."""
    victim, pixels = curved_victim(8, 8).train(), images(3)
    victim.frozen.eval()
    before = state_of(victim)
    seen = []
    victim.dropout.register_forward_hook(lambda *_: seen.extend(part.training for part in victim.modules()))
    forward = victim if entrance == "module" else victim.encode
    attack(forward, pixels, CrossEntropy(labels_of(pixels)), threat_model, sample_generators(0, range(3)))
    assert_unchanged(victim, before)
    assert seen
    assert not any(seen)


@every_attack
def test_the_model_is_left_as_it_was_after_an_error(attack, threat_model, curved_victim, images):
    """A model that fails in the middle of the search gets its flags back too."""
    victim, pixels = curved_victim(8, 8).train(), images(3)
    victim.frozen.eval()
    before = state_of(victim)

    calls = []

    def fail(module, inputs):
        calls.append(module)
        if len(calls) == failing_call:
            raise RuntimeError("out of memory")

    victim.dropout.register_forward_pre_hook(fail)
    failing_call = 1 if isinstance(attack, FGSM) else 2
    with pytest.raises(RuntimeError, match="out of memory"):
        attack(victim, pixels, CrossEntropy(labels_of(pixels)), threat_model, sample_generators(0, range(3)))
    assert_unchanged(victim, before)


@every_attack_and_threat
def test_result_does_not_depend_on_the_batch(attack, threat_model, curved_victim, images):
    """Each sample alone, in pairs and in another order gives the same image, bit for bit."""
    victim, pixels = curved_victim(8, 8), images(8)
    labels = labels_of(pixels)

    def run(rows):
        rows = torch.tensor(rows)
        return attack(victim, pixels[rows], CrossEntropy(labels[rows]), threat_model, sample_generators(3, rows))

    together = run(list(range(8)))
    for rows in ([0], [5], [2, 3], [7, 1, 4], [6, 5, 4, 3, 2, 1, 0]):
        assert torch.equal(run(rows), together[torch.tensor(rows)])


@every_attack_and_threat
def test_epsilon_zero_gives_the_clean_images(attack, threat_model, curved_victim, images):
    """With nothing allowed, nothing changes, bit for bit."""
    pixels = images(3)
    allowed = ThreatModel(threat_model.norm, 0)
    generators = sample_generators(0, range(3))
    adversarial = attack(curved_victim(8, 8), pixels, CrossEntropy(labels_of(pixels)), allowed, generators)
    assert torch.equal(adversarial, pixels)


@every_attack
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_result_does_not_depend_on_the_gradient_mode(attack, threat_model, mode, curved_victim, images):
    """Evaluation loops run under `no_grad` or `inference_mode`; the attack turns gradients on for itself."""
    victim, pixels = curved_victim(8, 8), images(3)
    loss = CrossEntropy(labels_of(pixels))
    expected = attack(victim, pixels, loss, threat_model, sample_generators(0, range(3)))
    with mode():
        adversarial = attack(victim, pixels.clone(), loss, threat_model, sample_generators(0, range(3)))
    assert torch.equal(adversarial, expected)
    assert not adversarial.is_inference()


@every_attack_and_threat
def test_samples_that_do_not_fit_one_batch_change_nothing(attack, threat_model, curved_victim, images):
    """Batches are made up anew as samples fall, and no image depends on it."""
    victim, pixels = curved_victim(8, 8), images(8)
    loss = CrossEntropy(labels_of(pixels))
    together, split = (
        attack(victim, pixels, loss, threat_model, sample_generators(3, range(8)), batch_size=batch_size)
        for batch_size in (None, 3)
    )
    assert torch.equal(together, split)


@every_attack
@pytest.mark.parametrize("loss_type", LOSSES.values())
def test_the_loss_climbs(attack, threat_model, loss_type, linear_victim, images):
    """On a linear victim every search ends higher than it began, or with another class."""
    if getattr(attack, "targets", None) and isinstance(attack, APGD) and loss_type is LOSSES["margin"]:
        pytest.skip("the margin loss has no targeted form")
    victim, pixels = linear_victim(8, 8, classes=5), images(8)
    outputs = victim(pixels).detach()
    loss = loss_type(outputs.argmax(dim=1))
    small = ThreatModel(threat_model.norm, "1/255" if threat_model is LINF else 0.1)
    adversarial = attack(victim, pixels, loss, small, sample_generators(0, range(8)))
    climbed = loss(victim(adversarial)) > loss(outputs)
    assert (climbed | loss.fooled(victim(adversarial))).all()


@pytest.mark.parametrize("attack", [attack for attack in CONTRACT if not needs_labels(attack)], ids=repr)
def test_a_loss_without_labels_climbs(attack, linear_victim, images):
    """Away from given embeddings; nothing can stop a search there before its end."""
    victim, pixels = linear_victim(8, 8), images(8)
    attack = dataclasses.replace(attack, **{"stop_when_fooled": False} if isinstance(attack, PGD) else {})
    loss = EmbeddingDistance(victim(pixels).detach() - 1)  # where it is zero it has no gradient
    adversarial = attack(victim, pixels, loss, ThreatModel("linf", "1/255"), sample_generators(0, range(8)))
    assert (loss(victim(adversarial)) > loss(victim(pixels))).all()


@pytest.mark.parametrize("attack", [attack for attack in CONTRACT if needs_labels(attack)], ids=repr)
def test_a_loss_without_labels_is_refused(attack, linear_victim, images):
    loss = EmbeddingDistance(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="loss with labels.* got EmbeddingDistance"):
        attack(linear_victim(8, 8), images(1), loss, ThreatModel("l2", 0.1), sample_generators(0, [0]))


class Startled:
    """Sure of its class, but for one call, in which it takes every image for the other."""

    def __init__(self, victim, startled_at):
        self.victim, self.startled_at, self.calls = victim, startled_at, []

    def __call__(self, pixels):
        logits = self.victim(pixels) + torch.tensor([1000.0, 0.0])
        startled = len(self.calls) == self.startled_at
        self.calls.append(len(pixels))
        return logits.flip(1) if startled else logits


# An ensemble lets a sample leave between its components, each of which is held to this by itself.
@pytest.mark.parametrize("attack", [attack for attack in CONTRACT if not isinstance(attack, AutoAttack)], ids=repr)
def test_one_lucky_draw_ends_no_search(attack, linear_victim, images):
    """A random model is fooled by chance sooner or later; a sample leaves when a second look confirms it."""
    (threat_model, *_), pixels = NORMS.get(type(attack), THREATS), images(2)
    loss = CrossEntropy(torch.zeros(2, dtype=torch.long))

    def calls(startled_at):
        victim = Startled(linear_victim(8, 8), startled_at)
        attack(victim, pixels, loss, threat_model, sample_generators(0, range(2)))
        return victim.calls

    undisturbed = calls(None)
    assert set(undisturbed) == {2}
    for startled_at in range(len(undisturbed)):
        assert sum(calls(startled_at)) >= sum(undisturbed)


@pytest.mark.parametrize("attack", [attack for attack in CONTRACT if not isinstance(attack, AutoAttack)], ids=repr)
def test_a_second_look_changes_nothing_for_a_model_that_is_sure_and_costs_little(
    attack, curved_victim, images, monkeypatch
):
    """A few forward passes of those samples that fall, and the same images bit for bit."""
    (threat_model, *_), victim, pixels, rows = NORMS.get(type(attack), THREATS), curved_victim(8, 8), images(8), []
    victim.dropout.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    loss = CrossEntropy(labels_of(pixels))

    def run():
        rows.clear()
        adversarial = attack(victim, pixels, loss, threat_model, sample_generators(0, range(8)))
        return adversarial, sum(rows)

    adversarial, cost = run()
    fooled = int(loss.fooled(victim.eval()(adversarial)).sum())
    monkeypatch.setattr(Problem, "confirm", lambda problem, images, fooled: fooled)
    unconfirmed, cost_before = run()
    assert torch.equal(adversarial, unconfirmed)
    assert 2 < fooled < 8
    assert cost - cost_before <= 2 * fooled + max(0, getattr(attack, "restarts", 1) - 1) * 8
    assert cost > cost_before or isinstance(attack, FGSM | PGD)
