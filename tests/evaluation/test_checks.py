"""Every check is quiet on a sound evaluation, and speaks up on one that is broken in its way."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from robust_clip.attacks import PGD, Attack, AttackRun, Square
from robust_clip.evaluation import Protocol, Sample, get_protocol
from robust_clip.evaluation.bench import Bench
from robust_clip.evaluation.checks import Probe, battery, checked_samples, more_steps, quick_checks
from robust_clip.threat_model import ThreatModel

EIGHT = ThreatModel("linf", "8/255")
SOUND = AttackRun(PGD(steps=20, stop_when_fooled=True))


class Classifier(nn.Module):
    """Logits of a small smooth network; subclasses break it."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(12, 3 * 64, generator=generator) / 4)
        self.second = nn.Parameter(torch.randn(3, 12, generator=generator) * 4)

    def forward(self, pixels):
        return torch.tanh((pixels.flatten(1) - 0.5) @ self.first.T) @ self.second.T

    def embed(self, pixels):
        return torch.tanh((pixels.flatten(1) - 0.5) @ self.first.T)


class Random(Classifier):
    def forward(self, pixels):
        return super().forward(pixels) + 0.1 * torch.randn(len(pixels), 3)


class Softmax(Classifier):
    def forward(self, pixels):
        return super().forward(pixels).softmax(dim=1)


class Masked(Classifier):
    """Rounds its input, as a defence by quantisation does."""

    def forward(self, pixels):
        return super().forward((pixels * 16).round() / 16 + 0 * pixels)


class Detached(Classifier):
    def forward(self, pixels):
        return super().forward(pixels.detach())


def probe(classifier=None, run=SOUND, threat_model=EIGHT, batch_size=8, n=32):
    classifier = classifier or Classifier()
    pixels = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1
    labels = classifier(pixels).argmax(dim=1)
    bench = Bench(classifier, Protocol("mine", 1, (run,), threat_model), torch.device("cpu"))
    return Probe(bench, pixels, labels, range(n), seed=0, batch_size=batch_size)


def findings(*args, **kwargs):
    tried = probe(*args, **kwargs)
    return "; ".join(quick_checks(tried) + battery(tried))


def test_a_sound_evaluation_has_no_findings():
    assert findings() == ""
    assert findings(threat_model=ThreatModel("l2", 0.5)) == ""


@pytest.mark.parametrize(
    ("classifier", "finding"),
    [
        (Random, "the model is random"),
        (Softmax, "the outputs are probabilities"),
        (Masked, "32 of 32 images have a gradient of cross-entropy that is zero"),
        (Detached, "no gradient reaches the pixels"),
    ],
)
def test_a_classifier_that_hides_is_found_quickly(classifier, finding):
    assert any(found.startswith(finding) for found in quick_checks(probe(classifier())))


def test_a_saturated_cross_entropy_is_found():
    class Sure(Classifier):
        def forward(self, pixels):
            return 1000 * super().forward(pixels)

    assert "trust margin, DLR and black-box" in findings(Sure())


def test_masked_gradients_stand_up_to_anything():
    assert "images stand at epsilon 0.5: the attack is broken or blind" in findings(Masked())


def test_too_few_steps_are_found():
    few = AttackRun(PGD(steps=1, step_size="0.5/255", stop_when_fooled=True))
    assert "too few steps" in findings(run=few)


def test_too_few_queries_are_found():
    assert "too few queries" in findings(run=AttackRun(Square(queries=5), "margin"))


@pytest.mark.parametrize(("more", "found"), [(2, False), (4, False), (5, True)])
def test_a_few_images_more_do_not_mean_too_few_steps(more, found):
    """Of 32 images 5 % are 1.6, and two are no sign of more than that."""

    class Counted:
        labels = torch.zeros(32)

        def standing(self, run, threat_model):
            return torch.arange(32) < (10 if run.attack.steps > 20 else 10 + more)

    assert (more_steps(Counted(), SOUND, EIGHT) is not None) == found


@dataclass(frozen=True, kw_only=True)
class Wrong(Attack):
    """A broken attack; which way is in `search`."""

    @property
    def gradient_passes(self):
        return 1


@dataclass(frozen=True, kw_only=True)
class Overshooting(Wrong):
    """Searches small balls well and larger ones not at all."""

    steps: int = 4

    def search(self, problem):
        if problem.threat_model.epsilon > 10 / 255:
            return problem.pixels.clone()
        return PGD(steps=20, step_size="1/255").search(problem)


@dataclass(frozen=True, kw_only=True)
class GivingUp(Wrong):
    """Goes back to the clean image if it is given many steps."""

    steps: int = 20

    def search(self, problem):
        return problem.pixels.clone() if self.steps > 20 else PGD(steps=20).search(problem)


@dataclass(frozen=True, kw_only=True)
class BatchMean(Wrong):
    """Steps along the gradient of a loss that is averaged over the batch, all of it in bfloat16.

    The larger the batch, the smaller a sample's share of the gradient; pixels of bfloat16, which are up to 1/256
    apart, lose a small step altogether.
    """

    steps: int = 20

    def search(self, problem):
        adversarial = problem.pixels
        for _ in range(self.steps):
            pixels = adversarial.detach().requires_grad_()
            with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
                mean = problem.loss(problem.forward(pixels)).bfloat16().mean()
            (gradient,) = torch.autograd.grad(mean, pixels)
            moved = (pixels.bfloat16() + gradient.bfloat16() / 50).float()
            adversarial = problem.threat_model.project(moved, problem.pixels)
        return adversarial


@dataclass(frozen=True, kw_only=True)
class Backwards(Wrong):
    """Descends instead of climbing."""

    def search(self, problem):
        gradient, _, _ = problem.gradient(problem.pixels, 0)
        return problem.threat_model.project(problem.pixels - problem.threat_model.step(gradient, 1), problem.pixels)


@pytest.mark.parametrize(
    ("attack", "finding"),
    [
        (Overshooting(), "robust accuracy rises with epsilon"),
        (GivingUp(), "more steps weaken the attack"),
        (BatchMean(), "depends on the batch size"),
        (Backwards(), "images stand at epsilon 0.5"),
    ],
)
def test_a_broken_attack_is_found(attack, finding):
    assert finding in findings(run=AttackRun(attack), batch_size=32)


def test_an_average_in_half_precision_flatters_the_model():
    """The more images share the batch, the fewer fall."""
    standing = {size: int(probe(batch_size=size).standing(AttackRun(BatchMean()), EIGHT).sum()) for size in (1, 8, 32)}
    sound = int(probe().standing(SOUND, EIGHT).sum())
    assert sound < standing[1] < standing[8] < standing[32]
    assert "depends on the batch size" in findings(run=AttackRun(BatchMean()), batch_size=8)


def test_an_attack_weaker_than_noise_is_found():
    class Ripple(Classifier):
        """Right only at the very image, so that noise fools it, and with a gradient that leads back there."""

        def forward(self, pixels):
            away = (pixels * 255 - (pixels * 255).round()).abs().sum(dim=(1, 2, 3)) + 0 * pixels.sum(dim=(1, 2, 3))
            return torch.stack([5 - away, away * 0, away * 0], dim=1)

    tried = probe(Ripple(), AttackRun(Backwards()))
    tried = replace(tried, pixels=(tried.pixels * 255).round() / 255, labels=torch.zeros(32, dtype=torch.long))
    assert any("random noise of the same size breaks" in found for found in battery(tried))


def test_attacks_are_tried_where_nothing_is_allowed():
    """An evaluation leaves such a search out, and the check of what it finds must not."""
    radii = []

    @dataclass(frozen=True)
    class Watched(PGD):
        def search(self, problem):
            radii.append(problem.threat_model.epsilon)
            return super().search(problem)

    battery(probe(run=AttackRun(Watched(steps=1)), n=8))
    assert 0 in radii


def test_a_model_whose_answers_at_epsilon_zero_are_not_those_of_clean_images_is_found():
    class Counting(Classifier):
        """Changes its mind with every call, as a model that learns at test time may."""

        calls = 0

        def forward(self, pixels):
            self.calls += 1
            return super().forward(pixels).roll(self.calls // 8, dims=1)

    assert "epsilon 0 differs from clean" in findings(Counting())


def samples(broken_by, n=100):
    return [Sample(row, 0, 0, 1, name) for row, name in enumerate(broken_by)] + [
        Sample(row, 0, 0, 0, None, 2) for row in range(len(broken_by), n)
    ]


def test_a_black_box_attack_that_beats_the_others_is_found():
    protocol = Protocol("mine", 1, (SOUND, AttackRun(Square(), "margin")), EIGHT)
    first, second = protocol.attack_names
    assert checked_samples(protocol, samples([first] * 90 + [second]), hardened=True) == []
    (finding,) = checked_samples(protocol, samples([first] * 90 + [second] * 5), hardened=True)
    assert "a black-box attack breaks 5 images" in finding


def test_a_model_that_stands_up_and_was_not_hardened_is_found():
    protocol = get_protocol("pgd20", epsilon="4/255")
    (name,) = protocol.attack_names
    (finding,) = checked_samples(protocol, samples([name] * 80), hardened=False)
    assert "20 of 100 images stand at linf 4/255 although the checkpoint does not say that it was trained" in finding
    assert checked_samples(protocol, samples([name] * 98), hardened=False) == []
    assert checked_samples(protocol, samples([name] * 80), hardened=True) == []


def test_few_images_are_no_ground_for_a_finding():
    """One of 16 is more than 5 %, but as well what less than that may give; three of them are beyond doubt."""
    protocol = get_protocol("pgd20", epsilon="8/255")
    (name,) = protocol.attack_names
    for standing, found in ((1, 0), (2, 0), (3, 1)):
        some = samples([name] * (16 - standing), n=16)
        assert len(checked_samples(protocol, some, hardened=False)) == found
    both = Protocol("mine", 1, (SOUND, AttackRun(Square(), "margin")), EIGHT)
    first, second = both.attack_names
    for late, found in ((20, 0), (60, 1)):
        some = samples([first] * (2000 - late) + [second] * late, n=2000)
        assert len(checked_samples(both, some, hardened=True)) == found
