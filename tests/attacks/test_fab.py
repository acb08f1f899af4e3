"""FAB against distances known in closed form, and against the package's own passes through the model."""

import sys

import pytest
import torch
from torch import nn

from robust_clip.attacks import FAB, CrossEntropy, EmbeddingDistance, Margin, sample_generators
from robust_clip.attacks.base import Problem
from robust_clip.attacks.fab import _Search
from robust_clip.threat_model import ThreatModel

fab_pt = pytest.importorskip("pyautoattack.fab_pt")

THREATS = [ThreatModel("linf", "8/255"), ThreatModel("l2", 0.5)]
every_threat = pytest.mark.parametrize("threat_model", THREATS, ids=str)


@pytest.fixture(scope="module")
def convolutional():
    """A net of 10 classes, 60 images and their classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        victim = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(200, 10)).eval()
        pixels = torch.rand(60, 3, 10, 9)
    return victim, pixels, victim(pixels).argmax(dim=1)


def watch(victim, seen):
    """Keep the images of each pass of a module, those with a gradient apart."""
    return victim.register_forward_hook(
        lambda module, inputs, output: seen[inputs[0].requires_grad].append(inputs[0].detach().clone())
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targets", [1, None])
def test_smallest_change_of_a_linear_victim_is_found(norm, targets, linear_victim, images):
    """All fall a hundredth above the least distance to the boundary, none a thousandth below it."""
    victim, pixels, labels = linear_victim(5, 7), images(4, 5, 7) * 0.2 + 0.4, torch.arange(4) % 2
    direction = (victim.weight[1] - victim.weight[0]).detach()
    dual = direction.abs().sum() if norm == "linf" else direction.norm()
    side, distance = (2 * labels - 1).view(-1, 1, 1, 1), 0.01 if norm == "linf" else 0.1
    excess = side * distance * dual - (pixels * direction).sum(dim=(1, 2, 3), keepdim=True)
    pixels = pixels + excess * direction / direction.norm() ** 2
    for epsilon, falls in ((1.01 * distance, True), (0.999 * distance, False)):
        generators = sample_generators(0, range(4))
        attack = FAB(steps=20, targets=targets)
        adversarial = attack(victim, pixels, CrossEntropy(labels), ThreatModel(norm, epsilon), generators)
        assert ((victim(adversarial).argmax(dim=1) != labels) == falls).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targets", [2, None])
def test_steps_are_those_of_the_package(norm, targets, convolutional):
    """Where nobody falls, the gradients are asked for at the same images as by the authors' own passes."""
    victim, pixels, labels = convolutional
    ours, theirs = {True: [], False: []}, {True: [], False: []}
    handle = watch(victim, ours)
    FAB(steps=6, targets=targets)(
        victim, pixels, CrossEntropy(labels), ThreatModel(norm, 1e-6), sample_generators(0, range(60))
    )
    handle.remove()
    handle = watch(victim, theirs)
    authors = fab_pt.FABAttack_PT(
        victim,
        norm=norm.capitalize(),
        n_iter=6,
        eps=1e-6,
        targeted=targets is not None,
        n_target_classes=targets or 9,
    )
    with torch.random.fork_rng():
        authors.perturb(pixels, labels)
    handle.remove()
    victim.zero_grad()
    wrong_classes = 1 if targets else 9  # theirs takes all gradients from one forward pass, in the untargeted form
    passes = ours[True][::wrong_classes]
    assert len(passes) == len(theirs[True]) == 6 * (targets or 1)
    assert len(ours[True]) == FAB(steps=6, targets=targets).gradient_passes * wrong_classes
    for mine, other in zip(passes, theirs[True], strict=True):
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=0)
    assert len(ours[False]) == 1 + 7 * (targets or 1)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.012), ("l2", 0.16)])
@pytest.mark.parametrize(("targets", "restarts"), [(3, 1), (1, 2), (None, 1)])
def test_breaks_whom_the_package_breaks(norm, epsilon, targets, restarts, convolutional):
    """And a few more, whose nearest image needs the projection into the ball to be inside."""
    victim, pixels, labels = convolutional
    authors = fab_pt.FABAttack_PT(
        victim,
        norm=norm.capitalize(),
        n_iter=10,
        eps=epsilon,
        targeted=targets is not None,
        n_target_classes=targets or 9,
        n_restarts=restarts,
    )
    with torch.random.fork_rng():
        found = authors.perturb(pixels, labels)
    victim.zero_grad()
    theirs = victim(found).argmax(dim=1) != labels
    attack, generators = FAB(steps=10, targets=targets, restarts=restarts), sample_generators(0, range(60))
    adversarial = attack(victim, pixels, Margin(labels), ThreatModel(norm, epsilon), generators)
    ours = victim(adversarial).argmax(dim=1) != labels
    assert 10 < theirs.sum() < 50
    assert ours[theirs].float().mean() > 0.95
    assert ours.sum() <= theirs.sum() + 3


@every_threat
def test_samples_leave_when_they_are_fooled(threat_model, curved_victim, images):
    """Each costs a step's two passes until then, and a second look; a misclassified image comes back as it is."""
    victim, pixels = curved_victim(8, 8).eval(), images(8)
    labels = victim(pixels).argmax(dim=1)
    labels[4] = 1 - labels[4]
    seen = {True: [], False: []}
    watch(victim, seen)
    loss, attack = CrossEntropy(labels), FAB(steps=12, targets=1)
    adversarial = attack(victim, pixels, loss, threat_model, sample_generators(0, range(8)))
    steps = [len(images) for images in seen[True]]
    passes = [len(images) for images in seen[False]]
    fooled = loss.fooled(victim(adversarial))
    assert torch.equal(adversarial[4], pixels[4])
    assert steps[0] == 7
    assert steps == sorted(steps, reverse=True)
    assert passes[:2] == [8, 1]
    assert fooled.sum() > 2
    assert len(steps) < 12 or steps[-1] == 8 - fooled.sum()
    projections = steps[-1] if len(steps) == 12 else 0
    assert sum(passes) == 8 + sum(steps) + fooled.sum() + projections


def test_search_ends_when_nobody_stands(convolutional):
    """Not after all the steps and targets."""
    victim, pixels, labels = convolutional
    seen = {True: [], False: []}
    handle = watch(victim, seen)
    adversarial = FAB()(victim, pixels, Margin(labels), ThreatModel("l2", 3), sample_generators(0, range(60)))
    handle.remove()
    assert (victim(adversarial).argmax(dim=1) != labels).all()
    assert len(seen[True]) < 20


@every_threat
def test_samples_that_stand_come_back_with_a_higher_loss(threat_model, linear_victim, images):
    """As the projection of the nearest image that fools, which is outside the ball; others as the clean image."""
    victim, pixels = linear_victim(8, 8), images(4)
    loss = CrossEntropy(victim(pixels).argmax(dim=1))
    small = ThreatModel(threat_model.norm, threat_model.epsilon / 1000)
    adversarial = FAB(steps=10, targets=1)(victim, pixels, loss, small, sample_generators(0, range(4)))
    assert not loss.fooled(victim(adversarial)).any()
    assert (loss(victim(adversarial)) > loss(victim(pixels))).all()
    torch.testing.assert_close(small.distance(adversarial, pixels) / small.epsilon, torch.ones(4), atol=0.02, rtol=0)
    flat = FAB(steps=2, targets=1)(
        lambda pixels: torch.stack([pixels.flatten(1).sum(1) * 0 + 1, pixels.flatten(1).sum(1) * 0], dim=1),
        pixels,
        CrossEntropy(torch.zeros(4, dtype=torch.long)),
        threat_model,
        sample_generators(0, range(4)),
    )
    assert torch.equal(flat, pixels)


@every_threat
def test_restarts_begin_half_an_epsilon_away(threat_model, convolutional):
    """At points drawn from each sample's generator; the first search begins at the clean image."""
    victim, pixels, labels = convolutional
    pixels = pixels * 0.1 + 0.45
    labels = victim(pixels).argmax(dim=1)
    small, starts = ThreatModel(threat_model.norm, 1e-3), []
    for company in (60, 7):
        seen = {True: [], False: []}
        handle = watch(victim, seen)
        loss, generators = CrossEntropy(labels[:company]), sample_generators(0, range(company))
        FAB(steps=1, targets=1, restarts=2)(victim, pixels[:company], loss, small, generators)
        handle.remove()
        assert len(seen[True]) == 2
        assert torch.equal(seen[True][0], pixels[:company])
        starts.append(seen[True][1])
    torch.testing.assert_close(small.distance(starts[0], pixels), torch.full((60,), 5e-4), atol=1e-6, rtol=0)
    assert torch.equal(starts[0][:7], starts[1])


def test_nothing_is_seeded_printed_or_left_behind(convolutional, capsys):
    """The package seeds the global generator and writes gradients into the weights when it is run as it is."""
    victim, pixels, labels = convolutional
    before = torch.get_rng_state()
    attack = FAB(steps=3, targets=2, restarts=2)
    attack(victim, pixels, CrossEntropy(labels), THREATS[0], sample_generators(0, range(60)))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in victim.parameters())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("threat_model", [ThreatModel("linf", "8/255"), ThreatModel("l2", 0.17)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_company_and_batch_size_change_nothing(threat_model, dtype, curved_victim, images):
    """Bit for bit, over images whose size is no multiple of what a processor computes at once."""
    victim, pixels = curved_victim(5, 7).to(dtype), images(8, 5, 7, dtype)
    labels = victim.eval()(pixels).argmax(dim=1)

    def run(rows, batch_size=None):
        loss, generators = CrossEntropy(labels[rows]), sample_generators(3, rows)
        attack = FAB(steps=5, targets=1, restarts=2)
        return attack(victim, pixels[rows], loss, threat_model, generators, batch_size=batch_size)

    together = run(list(range(8)))
    assert 0 < (victim(together).argmax(dim=1) != labels).sum() < 8
    for rows, batch_size in (([0], None), ([5], None), ([7, 1, 4], None), (list(range(8)), 3)):
        assert torch.equal(run(rows, batch_size), together[rows])


def test_a_large_image_alone_takes_the_same_steps_as_in_company(linear_victim, images):
    """Two threads share the sum over a single long row, so that the package must never see a single row."""
    victim, pixels, threads = linear_victim(106, 106), images(2, 106, 106), torch.get_num_threads()
    labels = victim(pixels).argmax(dim=1)
    ends = []
    try:
        torch.set_num_threads(2)
        for rows in (torch.arange(1), torch.arange(2)):
            loss, generators = CrossEntropy(labels[rows]), sample_generators(0, rows)
            problem = Problem(victim, pixels[rows], loss, ThreatModel("l2", 1e-3), generators, rows)
            search = _Search(problem, labels[rows], 1 - labels[rows].unsqueeze(1))
            with torch.no_grad():
                ends.append(search.run(1, random_start=True)[0][0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*ends)
    assert not torch.equal(ends[0], pixels[0])


def test_what_it_cannot_do_is_refused(linear_victim, images, monkeypatch):
    """More targets than wrong classes, no labels, no package."""
    victim, pixels, loss = linear_victim(8, 8), images(2), CrossEntropy(torch.tensor([0, 1]))
    generators = sample_generators(0, range(2))
    with pytest.raises(ValueError, match="targets=9 aims at too many wrong classes: of 2 classes only 1 are wrong"):
        FAB()(victim, pixels, loss, THREATS[0], generators)
    with pytest.raises(ValueError, match="FAB .* needs a loss with labels, .*; got EmbeddingDistance"):
        FAB(targets=1)(victim, pixels, EmbeddingDistance(torch.zeros(2, 2)), THREATS[0], generators)
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ImportError, match=r"pip install 'robust-clip\[autoattack\]'"):
        FAB(targets=1)(victim, pixels, loss, THREATS[0], generators)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "FAB steps must be an integer >= 1, got 0"),
        ({"restarts": 1.0}, "FAB restarts must be an integer >= 1, got 1.0"),
        ({"targets": 0}, "FAB targets must be an integer >= 1, or None for the untargeted form, got 0"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    """At construction, with or without the package."""
    with pytest.raises(ValueError, match=message):
        FAB(**fields)


@pytest.mark.parametrize("startled_at", [1, 2, 3])
def test_one_lucky_draw_inside_the_ball_ends_no_search(startled_at, linear_victim, images):
    """Its gradients lead to a boundary that is near, and it is never fooled there but for one call."""
    victim, pixels, looks, steps = linear_victim(8, 8), images(2) * 0.2 + 0.4, [], []

    def forward(pixels):
        logits = victim(pixels)
        if pixels.requires_grad:
            steps.append(len(pixels))
            return logits
        looks.append(len(pixels))
        sure = torch.tensor([[1.0, 0.0]]).expand(len(pixels), 2)
        return sure.flip(1) if len(looks) == startled_at + 1 else sure

    loss, generators = CrossEntropy(torch.zeros(2, dtype=torch.long)), sample_generators(0, range(2))
    FAB(steps=4, targets=1)(forward, pixels, loss, ThreatModel("l2", 20), generators)
    assert steps == [2] * 4
    assert looks == [2] * (1 + 4 + 1 + 1)
