"""Carlini and Wagner's attack against distances known in closed form, and against torch's Adam."""

from dataclasses import dataclass, replace

import pytest
import torch

from robust_clip.attacks import CarliniWagner, CrossEntropy, EmbeddingDistance, Margin, sample_generators
from robust_clip.attacks.base import Problem
from robust_clip.threat_model import ThreatModel


@pytest.fixture
def at_distance(linear_victim):
    """Function giving a linear victim of 5 x 7 images, images of classes 0 1 0 1 ..., and these labels.

    The nearest point where the classes are equal is `distance` away from each image.
    """

    def make(batch, distance):
        victim = linear_victim(5, 7)
        direction = (victim.weight[1] - victim.weight[0]).detach()
        direction = direction / direction.norm()
        pixels = 0.2 * torch.rand(batch, 3, 5, 7, generator=torch.Generator().manual_seed(1)) + 0.4
        labels = torch.arange(batch) % 2
        side = (2 * labels - 1).view(-1, 1, 1, 1)
        pixels += (side * distance - (pixels * direction).sum(dim=(1, 2, 3), keepdim=True)) * direction
        return victim, pixels, labels

    return make


def problem_of(victim, pixels, loss, epsilon):
    """What a search is handed."""
    positions = torch.arange(len(pixels))
    return Problem(victim, pixels, loss, ThreatModel("l2", epsilon), sample_generators(0, positions), positions)


def broken(attack, victim, pixels, labels, epsilon):
    """Which samples fall."""
    generators = sample_generators(0, range(len(pixels)))
    adversarial = attack(victim, pixels, CrossEntropy(labels), ThreatModel("l2", epsilon), generators)
    return victim(adversarial).argmax(dim=1) != labels


@pytest.mark.parametrize("distance", [0.1, 0.3])
def test_smallest_change_is_found(distance, at_distance):
    """All fall a hundredth above the least distance to the boundary, none a thousandth below it."""
    attack = CarliniWagner(steps=60, binary_search_steps=9)
    victim, pixels, labels = at_distance(4, distance)
    assert broken(attack, victim, pixels, labels, 1.01 * distance).all()
    assert not broken(attack, victim, pixels, labels, 0.999 * distance).any()


def test_weight_that_is_too_large_or_too_small_is_mended(at_distance):
    """One run at a poor `c` misses by far what the search over `c` finds."""
    victim, pixels, labels = at_distance(4, 0.3)
    for const in (1e-4, 1e3):
        attack = CarliniWagner(steps=60, binary_search_steps=1, initial_const=const)
        assert not broken(attack, victim, pixels, labels, 0.306).any()
        assert broken(replace(attack, binary_search_steps=16), victim, pixels, labels, 0.306).all()


def test_each_sample_has_a_search_of_its_own(at_distance):
    """Ten times more until a run succeeds, then the middle between the largest failure and the least success."""
    wanted, weights = torch.tensor([0.0004, 0.05, 0.7, 1e30]), []

    @dataclass(frozen=True, kw_only=True)
    class Scripted(CarliniWagner):
        def _minimise(self, problem, const):
            weights.append(const.clone())
            return problem.pixels, const >= wanted

    victim, pixels, labels = at_distance(4, 0.3)
    broken(Scripted(binary_search_steps=16), victim, pixels, labels, 0.1)
    for index, threshold in enumerate(wanted.tolist()):
        low, high, const = 0.0, float("inf"), 1e-3
        for weight in weights:
            assert weight[index].item() == pytest.approx(const)
            low, high = (low, const) if const >= threshold else (const, high)
            const = (low + high) / 2 if high < float("inf") else min(10 * const, 1e10)


@pytest.mark.parametrize(("const", "falls"), [(0.3, 1), (1.0, 6), (3.0, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_run_is_adam_on_the_papers_objective(const, falls, dtype, curved_victim, images):
    """The nearest image that fools, else the last, of an independent implementation."""
    victim, pixels, everyone = curved_victim(5, 7).eval().to(dtype), images(8, 5, 7, dtype), torch.arange(8)
    labels = victim(pixels).argmax(dim=1)
    point = torch.atanh((2 * pixels - 1) * (1 - 1e-6)).requires_grad_()
    optimizer = torch.optim.Adam([point], lr=0.02)
    expected, least, success = pixels.clone(), torch.full((8,), torch.inf, dtype=dtype), torch.zeros(8, dtype=bool)
    for _ in range(30):
        candidates = 0.5 * (torch.tanh(point) + 1)
        logits = victim(candidates)
        right, wrong = logits[everyone, labels], logits[everyone, 1 - labels]
        squares = (candidates - pixels).square().sum(dim=(1, 2, 3))
        nearer = (wrong > right) & (squares.sqrt() < least)
        expected[nearer], least[nearer] = candidates[nearer].detach(), squares.sqrt()[nearer].detach()
        success |= wrong - right >= 0.5
        optimizer.zero_grad()
        (squares + const * torch.clamp(right - wrong, min=-0.5)).sum().backward()
        optimizer.step()
    expected[least.isinf()] = (0.5 * (torch.tanh(point.detach()) + 1))[least.isinf()]
    problem = problem_of(victim, pixels, Margin(labels, 0.5), 0.9 * min(least.min().item(), 1))
    ends, reached = CarliniWagner(steps=30, learning_rate=0.02)._minimise(problem, torch.full((8,), const))
    torch.testing.assert_close(ends, problem.threat_model.project(expected, pixels), atol=2e-5, rtol=0)
    assert least.isfinite().sum() == falls
    assert torch.equal(reached, success)


def test_samples_leave_with_the_first_image_inside_the_ball_that_fools(at_distance):
    """They cost nothing from then on, and the others are searched on; a misclassified image is not searched at all."""
    victim, pixels, labels = at_distance(6, 0.3)
    direction = victim.weight[1] - victim.weight[0]
    nearer = 0.02 * torch.arange(6).view(-1, 1, 1, 1) * (1 - 2 * labels).view(-1, 1, 1, 1)
    pixels = pixels + nearer * (direction / direction.norm()).detach()  # 0.3, 0.28, ... 0.2 away
    labels[5] = 1 - labels[5]
    loss, threat_model, sizes = CrossEntropy(labels), ThreatModel("l2", 0.27), []
    victim.register_forward_hook(lambda module, inputs, output: sizes.append((len(output), output.requires_grad)))
    attack = CarliniWagner(steps=40, binary_search_steps=2, initial_const=0.1)
    adversarial = attack(victim, pixels, loss, threat_model, sample_generators(0, range(6)))
    steps = [size for size, gradient in sizes if gradient]
    fooled = loss.fooled(victim(adversarial))
    assert fooled.tolist() == [False, False, True, True, True, True]
    assert torch.equal(adversarial[5], pixels[5])
    assert steps[0] == 5
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] == 2
    assert len(steps) == attack.gradient_passes
    assert len(set(steps)) == 4


def test_samples_that_stand_come_back_as_the_best_inside_the_ball(at_distance):
    """For a linear victim, straight towards the boundary: epsilon far, and of higher loss."""
    victim, pixels, labels = at_distance(4, 0.3)
    threat_model, loss = ThreatModel("l2", 0.2), CrossEntropy(labels)
    attack = CarliniWagner(steps=60, binary_search_steps=5)
    adversarial = attack(victim, pixels, loss, threat_model, sample_generators(0, range(4)))
    direction = (victim.weight[1] - victim.weight[0]).detach()
    expected = pixels + 0.2 * (1 - 2 * labels).view(-1, 1, 1, 1) * direction / direction.norm()
    assert not loss.fooled(victim(adversarial)).any()
    torch.testing.assert_close(loss(victim(adversarial)), loss(victim(expected)), atol=0, rtol=1e-2)


def test_pixels_on_the_faces_of_the_box_can_move(linear_victim):
    """Where tanh is flat, Adam still gets them off: black and white images, whose least change is known."""
    victim = linear_victim(5, 7)
    difference = (victim.weight[1] - victim.weight[0]).detach()
    pixels = (difference < 0).float().unsqueeze(0)  # each pixel has all its room on the side that raises class 1
    margin = 0.3 * difference.norm()

    def forward(images):
        logits = (images - pixels).flatten(1) @ difference.flatten()
        return torch.stack([margin.expand_as(logits), logits], dim=1)

    attack = CarliniWagner(steps=200, learning_rate=0.1, initial_const=0.05, binary_search_steps=4)
    label = torch.tensor([0])
    for epsilon, falls in ((0.33, True), (0.299, False)):
        assert broken(attack, forward, pixels, label, epsilon).item() == falls


def test_company_and_batch_size_change_nothing(curved_victim, images):
    """Bit for bit, over images whose size is no multiple of what a processor computes at once."""
    victim, pixels = curved_victim(5, 7), images(8, 5, 7)
    labels = victim.eval()(pixels).argmax(dim=1)
    attack = CarliniWagner(steps=15, binary_search_steps=3, initial_const=1, learning_rate=0.02)

    def run(rows, batch_size=None):
        loss, generators = CrossEntropy(labels[rows]), sample_generators(3, rows)
        return attack(victim, pixels[rows], loss, ThreatModel("l2", 0.3), generators, batch_size=batch_size)

    together = run(list(range(8)))
    assert 0 < (victim(together).argmax(dim=1) != labels).sum() < 8
    for rows, batch_size in (([0], None), ([5], None), ([7, 1, 4], None), (list(range(8)), 3)):
        assert torch.equal(run(rows, batch_size), together[rows])


def test_other_norms_and_losses_without_labels_are_refused(linear_victim, images):
    """With the attack that people mean by CW under linf."""
    pixels, generators = images(2), sample_generators(0, range(2))
    loss = CrossEntropy(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="smallest l2 change, got linf 4/255; for linf use PGD with the margin loss"):
        CarliniWagner()(linear_victim(8, 8), pixels, loss, ThreatModel("linf", "4/255"), generators)
    with pytest.raises(ValueError, match="needs a loss with labels, such as .*; got EmbeddingDistance"):
        CarliniWagner()(
            linear_victim(8, 8), pixels, EmbeddingDistance(torch.zeros(2, 2)), ThreatModel("l2", 1), generators
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "CarliniWagner steps must be an integer >= 1, got 0"),
        ({"binary_search_steps": 2.0}, "binary_search_steps must be an integer >= 1, got 2.0"),
        ({"initial_const": 0}, "initial_const must be a positive number, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a positive number, got nan"),
        ({"confidence": -1}, "confidence must be a number >= 0, got -1"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    """At construction."""
    with pytest.raises(ValueError, match=message):
        CarliniWagner(**fields)
