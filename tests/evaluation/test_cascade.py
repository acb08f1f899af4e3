"""Which images meet which attack, and in what company."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from robust_clip.attacks import Attack
from robust_clip.evaluation import AttackRun, Protocol, Sample, get_protocol
from robust_clip.evaluation.cascade import Candidate, Cascade, numerics
from robust_clip.threat_model import ThreatModel


class Brightness(nn.Module):
    """Class 1 for images that are bright on average."""

    def forward(self, pixels):
        mean = pixels.mean(dim=(1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


class Blind(Attack):
    """An attack that asks for no gradient."""

    @property
    def gradient_passes(self):
        return 0


@dataclass(frozen=True)
class Shift(Blind):
    """Darkens every image, and remembers how many it was given at once."""

    amount: float
    sizes: list[int] = field(default_factory=list)

    def search(self, problem):
        self.sizes.append(len(problem.pixels))
        return (problem.pixels - self.amount).clamp(0, 1)


def candidates(*brightness, side=2):
    """Images of class 1."""
    return [
        Candidate(torch.full((3, side, side), value), 1, Sample(index, 1)) for index, value in enumerate(brightness)
    ]


def cascade(*attacks, batch_size=2, forward=None):
    protocol = Protocol("mine", 1, tuple(map(AttackRun, attacks)), ThreatModel("linf", 0.5))
    return Cascade(forward or Brightness(), protocol, seed=0, batch_size=batch_size, device=torch.device("cpu"))


def test_each_attack_meets_those_that_stood_up_to_the_ones_before():
    weak, strong = Shift(0.1), Shift(0.3)
    stages = cascade(weak, strong, batch_size=8)
    stages.feed(candidates(0.4, 0.55, 0.7, 0.9))
    assert stages.drain() == [
        Sample(0, 1, 0),
        Sample(1, 1, 1, 0, "1-shift-cross_entropy"),
        Sample(2, 1, 1, 0, "2-shift-cross_entropy"),
        Sample(3, 1, 1, 1),
    ]
    assert (weak.sizes, strong.sizes) == ([3], [2])


def test_attacks_wait_for_full_batches():
    attack = Shift(0.1)
    stages = cascade(attack, batch_size=2)
    images = candidates(0.4, 0.9, 0.4, 0.9, 0.4, 0.9)
    through = [len(stages.feed(images[start : start + 2])) for start in (0, 2, 4)]
    assert through == [1, 3, 1]
    assert stages.drain() == [Sample(5, 1, 1, 1)]
    assert attack.sizes == [2, 1]


@dataclass(frozen=True)
class Dice(Blind):
    """Darkens every image by chance."""

    def search(self, problem):
        draws = torch.stack([torch.rand((), generator=generator) for generator in problem.generators])
        return (problem.pixels - 0.5 * draws.view(-1, 1, 1, 1)).clamp(0, 1)


def test_chance_does_not_depend_on_company():
    images, outcomes = candidates(*[0.75] * 12), []
    for batch_size in (1, 5, 12):
        stages = cascade(Dice(), batch_size=batch_size)
        through = stages.feed(reversed(images)) + stages.drain()
        outcomes.append(sorted(through, key=lambda sample: sample.index))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert {sample.robust for sample in outcomes[0]} == {True, False}


def test_sizes_are_not_mixed():
    attack = Shift(0.1)
    stages = cascade(attack, batch_size=8)
    stages.feed(candidates(0.9, 0.9) + candidates(0.9, side=3))
    assert len(stages.drain()) == 3
    assert sorted(attack.sizes) == [1, 2]


def test_logits_that_are_not_finite_are_refused_by_row():
    class Broken(Brightness):
        def forward(self, pixels):
            return super().forward(pixels) / (pixels[:, :1, 0, 0] < 0.7)

    with pytest.raises(FloatingPointError, match=r"not finite for the images at rows \[1\]"):
        cascade(Shift(0.1), forward=Broken()).feed(candidates(0.6, 0.9))


def test_an_attack_that_meets_nan_names_the_rows():
    @dataclass(frozen=True)
    class Failing(Blind):
        def search(self, problem):
            raise FloatingPointError("not finite at step 0 for the samples at positions [0] of the batch")

    with pytest.raises(FloatingPointError, match=r"positions \[0\] of the batch; the batch is rows \[0, 1\]"):
        cascade(Failing()).feed(candidates(0.9, 0.9))


def test_clean_images_go_through_at_once():
    stages = Cascade(Brightness(), get_protocol("clean"), seed=0, batch_size=2, device=torch.device("cpu"))
    assert stages.feed(candidates(0.9, 0.1)) == [Sample(0, 1, 1), Sample(1, 1, 0)]


def test_numerics_are_those_of_the_protocol_and_then_the_callers_again():
    matrix, backend = torch.eye(2), torch.backends.cudnn.conv
    before = backend.fp32_precision
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with numerics("fp32", "cpu"):
            assert (matrix @ matrix).dtype == torch.float32
            assert backend.fp32_precision == "ieee"
        assert (matrix @ matrix).dtype == torch.bfloat16
    with numerics("bf16", "cpu"):
        assert (matrix @ matrix).dtype == torch.bfloat16
    assert backend.fp32_precision == before
