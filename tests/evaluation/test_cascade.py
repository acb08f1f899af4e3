"""Which images meet which attack, and in what company."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

from robust_clip.attacks import PGD, Attack, AttackRun
from robust_clip.evaluation import Protocol, Sample, get_protocol
from robust_clip.evaluation.bench import Bench, numerics
from robust_clip.evaluation.cascade import POOLED_BATCHES, Candidate, Cascade
from robust_clip.threat_model import ThreatModel


class Brightness(nn.Module):
    """Class 1 for images that are bright on average."""

    def forward(self, pixels):
        mean = self.embed(pixels).squeeze(1)
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)

    def embed(self, pixels):
        return pixels.mean(dim=(1, 2, 3)).unsqueeze(1)


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
    return Cascade(Bench(forward or Brightness(), protocol, torch.device("cpu")), seed=0, batch_size=batch_size)


def fates(passes):
    """The last state of every sample, in the order in which they came through."""
    last = {}
    for samples in passes:
        for sample in samples:
            last.pop(sample.index, None)
            last[sample.index] = sample
    return list(last.values())


def test_each_attack_meets_those_that_stood_up_to_the_ones_before():
    weak, strong = Shift(0.1), Shift(0.3)
    stages = cascade(weak, strong, batch_size=8)
    assert not fates(stages.feed(candidates(0.4, 0.55, 0.7, 0.9)))
    assert fates(stages.drain()) == [
        Sample(0, 1, 0),
        Sample(1, 1, 1, 0, "1-shift-cross_entropy"),
        Sample(2, 1, 1, 0, "2-shift-cross_entropy", withstood=1),
        Sample(3, 1, 1, 1, withstood=2),
    ]
    assert (weak.sizes, strong.sizes) == ([3], [2])


def test_what_stood_up_to_an_attack_is_known_before_the_next():
    stages = cascade(Shift(0.1), Shift(0.3), batch_size=8)
    list(stages.feed(candidates(0.7, 0.9)))
    first, second = (samples for samples in stages.drain() if samples)
    assert first == [Sample(0, 1, 1, 1, withstood=1), Sample(1, 1, 1, 1, withstood=1)]
    assert second[0].broken_by == "2-shift-cross_entropy"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nothing_is_searched_where_nothing_is_allowed(norm):
    """And every sample still is where a search that goes nowhere would leave it."""
    weak, strong = Shift(0.0), Shift(0.0)
    stages = cascade(weak, strong, batch_size=8)
    allowed = replace(stages.bench.protocol, threat_model=ThreatModel(norm, 0))
    stages = Cascade(replace(stages.bench, protocol=allowed), seed=0, batch_size=8)
    list(stages.feed(candidates(0.4, 0.9)))
    assert fates(stages.drain()) == [Sample(0, 1, 0), Sample(1, 1, 1, 1, withstood=2)]
    assert weak.sizes == strong.sizes == []


def test_an_image_enters_where_it_was_left():
    weak, strong = Shift(0.1), Shift(0.3)
    stages = cascade(weak, strong)
    known = Candidate(torch.full((3, 2, 2), 0.9), 1, Sample(7, 1, 1, 1, withstood=1))
    list(stages.feed([known]))
    assert fates(stages.drain()) == [Sample(7, 1, 1, 1, withstood=2)]
    assert (weak.sizes, strong.sizes) == ([], [1])


def test_attacks_wait_for_several_full_batches():
    attack = Shift(0.1)
    stages = cascade(attack, batch_size=2)
    images = candidates(*[0.4, 0.9] * (POOLED_BATCHES * 2 + 1))
    through = [len(fates(stages.feed(images[start : start + 2]))) for start in range(0, len(images), 2)]
    assert through == ([1] * (POOLED_BATCHES * 2 - 1) + [1 + POOLED_BATCHES * 2, 1])
    assert fates(stages.drain()) == [Sample(len(images) - 1, 1, 1, 1, withstood=1)]
    assert attack.sizes == [POOLED_BATCHES * 2, 1]


def test_forward_passes_keep_to_the_batch_size():
    class Counting(Brightness):
        def forward(self, pixels):
            rows.append(len(pixels))
            return super().forward(pixels)

    rows = []
    stages = cascade(PGD(steps=2, step_size=0.001), batch_size=3, forward=Counting())
    list(stages.feed(candidates(*[0.9] * 10)))
    list(stages.drain())
    assert max(rows) == 3
    assert sum(rows) == 10 * (1 + 2 + 1)


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
        through = [*stages.feed(reversed(images)), *stages.drain()]
        outcomes.append(sorted(fates(through), key=lambda sample: sample.index))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert {sample.robust for sample in outcomes[0]} == {True, False}


def test_sizes_are_not_mixed():
    attack = Shift(0.1)
    stages = cascade(attack, batch_size=8)
    list(stages.feed(candidates(0.9, 0.9) + candidates(0.9, side=3)))
    list(stages.drain())
    assert sorted(attack.sizes) == [1, 2]


def test_logits_that_are_not_finite_are_refused_by_row():
    class Broken(Brightness):
        def forward(self, pixels):
            return super().forward(pixels) / (pixels[:, :1, 0, 0] < 0.7)

    with pytest.raises(FloatingPointError, match=r"not finite for the images at rows \[1\]"):
        list(cascade(Shift(0.1), forward=Broken()).feed(candidates(0.6, 0.9)))


def test_an_attack_that_meets_nan_names_the_rows():
    @dataclass(frozen=True)
    class Failing(Blind):
        def search(self, problem):
            raise FloatingPointError("not finite at step 0 for the samples at positions [0] of the batch")

    stages = cascade(Failing())
    list(stages.feed(candidates(0.9, 0.9)))
    with pytest.raises(FloatingPointError, match=r"positions \[0\] of the batch; the samples are rows \[0, 1\]"):
        list(stages.drain())


def test_clean_images_go_through_at_once():
    bench = Bench(Brightness(), get_protocol("clean"), torch.device("cpu"))
    assert fates(Cascade(bench, 0, 2).feed(candidates(0.9, 0.1))) == [Sample(0, 1, 1), Sample(1, 1, 0)]


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
