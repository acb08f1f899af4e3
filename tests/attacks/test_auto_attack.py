"""The ensemble: who meets whom, what few classes change, and that it is at least as strong as its parts."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

from robust_clip.attacks import (
    APGD,
    FAB,
    PGD,
    VERSIONS,
    Attack,
    AttackRun,
    AutoAttack,
    CrossEntropy,
    EmbeddingDistance,
    Margin,
    Square,
    fit_to_classes,
    sample_generators,
)
from robust_clip.evaluation.protocol import UndefendedRun
from robust_clip.threat_model import ThreatModel

THREAT = ThreatModel("linf", "8/255")


class Victim(nn.Module):
    """A small smooth network of six classes."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(20, 3 * 64, generator=generator) / 4)
        self.second = nn.Parameter(torch.randn(6, 20, generator=generator))

    def forward(self, pixels):
        return torch.tanh((pixels.flatten(1) - 0.5) @ self.first.T) @ self.second.T


@dataclass(frozen=True)
class Recorder(Attack):
    """Breaks nothing, and remembers whom it met and what it climbed."""

    seen: list = field(default_factory=list)

    @property
    def gradient_passes(self):
        return 3

    def search(self, problem):
        self.seen.append((problem.positions.tolist(), type(problem.loss).__name__, problem.eot_samples))
        return problem.pixels.clone()


def standing(victim, attack, pixels, labels, threat_model=THREAT):
    adversarial = attack(victim, pixels, CrossEntropy(labels), threat_model, sample_generators(0, range(len(pixels))))
    return victim(adversarial).argmax(dim=1) == labels


def test_each_component_meets_those_that_still_stand(images):
    victim, pixels = Victim(), images(16)
    labels = victim(pixels).argmax(dim=1)
    labels[3] = (labels[3] + 1) % 6
    first, last = Recorder(), Recorder()
    runs = (AttackRun(first), AttackRun(PGD(steps=3)), AttackRun(last, "dlr", eot_samples=2))
    after = standing(victim, AutoAttack(version="custom", runs=runs), pixels, labels)
    ((before, _, _),) = first.seen
    ((met, loss, eot_samples),) = last.seen
    assert before == [row for row in range(16) if row != 3]
    assert met == after.nonzero().flatten().tolist()
    assert 0 < len(met) < 15
    assert (loss, eot_samples) == ("DLR", 2)


def test_the_ensemble_is_at_least_as_strong_as_its_parts(images):
    victim, pixels = Victim(), images(64)
    labels = victim(pixels).argmax(dim=1)
    targeted, square = AttackRun(APGD(steps=5, targets=3), "dlr"), AttackRun(Square(queries=30), "margin")
    runs, small = (AttackRun(APGD(steps=5)), targeted, square), ThreatModel("linf", "4/255")
    together = standing(victim, AutoAttack(version="custom", runs=runs), pixels, labels, small)
    for run in runs:
        alone = standing(victim, AutoAttack(version="custom", runs=(run,)), pixels, labels, small)
        assert not (together & ~alone).any()
    assert 0 < together.sum() < 64


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_are_made_of_what_the_paper_says(version):
    components = AutoAttack(version=version).components
    kinds = {
        "standard": ["apgd-cross_entropy", "apgd_t-dlr", "fab_t-margin", "square-margin"],
        "standard_without_fab": ["apgd-cross_entropy", "apgd_t-dlr", "square-margin"],
        "plus": [
            "apgd-cross_entropy",
            "apgd-dlr",
            "fab-margin",
            "square-margin",
            "apgd_t-dlr",
            "fab_t-margin",
        ],
        "rand": ["apgd-cross_entropy", "apgd-dlr"],
    }
    assert [str(run) for run in components] == kinds[version]


def test_passes_are_those_of_all_components():
    runs = (AttackRun(Recorder()), AttackRun(Recorder(), eot_samples=4))
    assert AutoAttack(version="custom", runs=runs).gradient_passes == 3 + 12


@pytest.mark.parametrize(
    ("n_classes", "names", "targets", "notes"),
    [
        (10, ["apgd-cross_entropy", "apgd_t-dlr", "fab_t-margin", "square-margin"], [None, 9, 9, None], 0),
        (5, ["apgd-cross_entropy", "apgd_t-dlr", "fab_t-margin", "square-margin"], [None, 4, 4, None], 2),
        (3, ["apgd-cross_entropy", "apgd-dlr", "fab_t-margin", "square-margin"], [None, None, 2, None], 2),
        (2, ["apgd-cross_entropy", "fab_t-margin", "square-margin"], [None, 1, None], 2),
        (1, ["apgd-cross_entropy"], [None], 3),
    ],
)
def test_few_classes(n_classes, names, targets, notes):
    runs, told = fit_to_classes(VERSIONS["standard"], n_classes)
    assert [str(run) for run in runs] == names
    assert [getattr(run.attack, "targets", None) for run in runs] == targets
    assert len(told) == notes
    assert all(f"there are {n_classes} classes" in note for note in told)


def test_of_two_that_become_one_nothing_is_lost():
    """Untargeted DLR becomes cross-entropy on two classes; its restarts and draws stay."""
    thorough = AttackRun(APGD(restarts=5), eot_samples=20)
    quick, once = AttackRun(APGD()), replace(thorough, loss="dlr")
    for ensemble in ([quick, once], [once, quick], [thorough, replace(quick, loss="dlr")]):
        assert fit_to_classes(ensemble, 2)[0] == (thorough,)
    assert fit_to_classes([quick, thorough], 2)[0] == (quick, thorough)  # as they were given


def test_runs_of_another_kind_stay():
    """An attack on the undefended model is no twin of one that knows of the defence."""
    knowing, unknowing = AttackRun(APGD(targets=9), "dlr"), UndefendedRun(APGD(targets=9), "dlr")
    assert [type(run) for run in fit_to_classes([knowing, unknowing], 2)[0]] == [AttackRun, UndefendedRun]


def test_few_classes_are_handled_in_the_search_and_told(images, caplog):
    class Two(Victim):
        def forward(self, pixels):
            return super().forward(pixels)[:, :2]

    victim, pixels = Two(), images(8)
    labels = victim(pixels).argmax(dim=1)
    runs = (AttackRun(APGD(steps=5, targets=9), "dlr"), AttackRun(APGD(steps=5)))
    assert standing(victim, AutoAttack(version="custom", runs=runs), pixels, labels).sum() < 8
    assert any("apgd_t-dlr" in record.message and "there are 2 classes" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": "fast"}, "unknown version 'fast' of AutoAttack, known: standard, standard_without_fab, plus"),
        ({"version": "custom"}, "runs are given for version custom and for no other"),
        ({"runs": (AttackRun(PGD()),)}, "runs are given for version custom and for no other"),
    ],
)
def test_names_and_components_agree(fields, message):
    with pytest.raises(ValueError, match=message):
        AutoAttack(**fields)


def test_probabilities_are_warned_of(images, caplog):
    pixels = images(4)
    labels = Victim()(pixels).argmax(dim=1)
    brief = AutoAttack(version="custom", runs=(AttackRun(PGD(steps=1)),))
    standing(Victim(), brief, pixels, labels)
    assert not caplog.text
    standing(nn.Sequential(Victim(), nn.Softmax(dim=1)), brief, pixels, labels)
    assert "the outputs are probabilities, not logits: gradients vanish in them" in caplog.text


def test_labels_are_classes():
    with pytest.raises(ValueError, match=r"labels must be integer classes, got torch.float32; use labels.long\(\)"):
        CrossEntropy(torch.zeros(2))


def test_labels_are_needed(images):
    with pytest.raises(ValueError, match="AutoAttack .* needs a loss with labels"):
        AutoAttack(version="rand")(
            Victim(), images(1), EmbeddingDistance(torch.zeros(1, 6)), THREAT, sample_generators(0, [0])
        )


def test_the_given_loss_lends_its_labels_alone(images):
    victim, pixels = Victim(), images(8)
    labels = victim(pixels).argmax(dim=1)
    attack = AutoAttack(version="custom", runs=(AttackRun(APGD(steps=3)),))
    generators = [sample_generators(0, range(8)) for _ in range(2)]
    first, second = (
        attack(victim, pixels, loss(labels), THREAT, own)
        for loss, own in zip((CrossEntropy, Margin), generators, strict=True)
    )
    assert torch.equal(first, second)


def test_fab_is_named_in_what_is_run():
    assert any(isinstance(run.attack, FAB) for run in VERSIONS["standard"])
    assert not any(isinstance(run.attack, FAB) for run in VERSIONS["standard_without_fab"])
