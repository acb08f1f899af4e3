"""Square Attack against its algorithms written out plainly, and against the authors' code."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from robust_clip.attacks import CrossEntropy, EmbeddingDistance, Margin, Square, sample_generators
from robust_clip.attacks.base import Problem
from robust_clip.attacks.square import NUMBERS, propose, square_pattern, start, uniform, window_side
from robust_clip.threat_model import ThreatModel

THREATS = [ThreatModel("linf", "8/255"), ThreatModel("l2", 0.5)]
every_threat = pytest.mark.parametrize("threat_model", THREATS, ids=str)


def problem_of(forward, pixels, loss, threat_model, seed=0):
    """What a search is handed."""
    positions = torch.arange(len(pixels))
    return Problem(forward, pixels, loss, threat_model, sample_generators(seed, positions), positions)


def plain_pattern(side):
    """Equation 2 pixel by pixel."""
    pattern = np.zeros((side, side))
    for first, rows, sign in ((0, side // 2, 1), (side // 2, side - side // 2, -1)):
        for row in range(rows):
            for column in range(side):
                distance = max(abs(row - rows // 2), abs(column - side // 2))
                value = sum(1 / (1 + further) ** 2 for further in range(distance, side // 2 + 1))
                pattern[first + row, column] = sign * value
        pattern[first : first + rows] /= np.linalg.norm(pattern[first : first + rows]) or 1
    return pattern / np.linalg.norm(pattern)


def plain_proposal(best, clean, threat_model, side, draws):
    """Algorithms 2 and 3 for one sample, channel by channel."""
    height, width = best.shape[1:]
    epsilon = threat_model.epsilon
    top, left = int(draws[0] * (height - side + 1)), int(draws[1] * (width - side + 1))
    window = slice(top, top + side), slice(left, left + side)
    change = best - clean
    if threat_model.norm == "linf":
        for channel in range(3):
            change[channel][window] += 2 * epsilon * (-1 if draws[2 + channel] < 0.5 else 1)
        return np.clip(clean + np.clip(change, -epsilon, epsilon), 0, 1)
    top, left = int(draws[2] * (height - side + 1)), int(draws[3] * (width - side + 1))
    source = slice(top, top + side), slice(left, left + side)
    both = np.zeros((height, width), dtype=bool)
    both[window] = both[source] = True
    unused = max(epsilon**2 - (change**2).sum(), 0)
    pattern = plain_pattern(side) if draws[4] < 0.5 else plain_pattern(side).T
    for channel in range(3):
        values = change[channel]
        mass = (values[both] ** 2).sum() + unused / 3
        mixed = (-1 if draws[5 + channel] < 0.5 else 1) * pattern
        mixed = mixed + values[window] / (np.linalg.norm(values[window]) or 1)
        values[source] = 0
        values[window] = mixed / (np.linalg.norm(mixed) or 1) * np.sqrt(mass)
    return np.clip(clean + change, 0, 1)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 11])
def test_pattern_is_its_equation(side):
    np.testing.assert_allclose(square_pattern(side).numpy(), plain_pattern(side), rtol=1e-12)


@pytest.mark.parametrize("side", [2, 3, 5, 8, 11])
def test_pattern_is_the_authors(side):
    module = pytest.importorskip("pyautoattack.square")
    torch.manual_seed(0)
    theirs = module.SquareAttack(None, norm="L2", device="cpu").eta(side)
    either = [theirs, theirs.T]  # it turns by chance
    ours = square_pattern(side).float()
    assert any(torch.allclose(ours, pattern, atol=1e-6) for pattern in either)


@every_threat
@pytest.mark.parametrize(("height", "width", "side"), [(8, 8, 3), (8, 8, 8), (5, 7, 5), (5, 7, 2), (1, 9, 1)])
def test_proposals_are_the_papers_algorithms(threat_model, height, width, side, images):
    """Every sample of a batch with a square, a direction and colours of its own."""
    pixels = images(6, height, width, torch.float64)
    best = threat_model.random_start(pixels, sample_generators(1, range(6)))
    draws = uniform(sample_generators(2, range(6)), (NUMBERS[threat_model.norm],))
    tried = propose(best, pixels, threat_model, side, draws)
    for index in range(6):
        expected = plain_proposal(best[index].numpy(), pixels[index].numpy(), threat_model, side, draws[index].numpy())
        np.testing.assert_allclose(tried[index].numpy(), expected, atol=1e-12)


def test_squares_reach_every_corner(images):
    """The largest and smallest numbers drawn give the squares in the corners."""
    pixels = images(2, 5, 7) * 0.1 + 0.45
    draws = torch.full((2, 5), 1 - 2**-24)
    draws[1, :2] = 0
    changed = (propose(pixels, pixels, ThreatModel("linf", 0.1), 2, draws) != pixels).all(dim=1)
    assert changed[0].nonzero().tolist() == [[3, 5], [3, 6], [4, 5], [4, 6]]
    assert changed[1].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_linf_starts_from_vertical_stripes(images):
    """Each column of each channel is epsilon brighter or darker."""
    pixels, loss = images(4, 6, 9) * 0.1 + 0.45, CrossEntropy(torch.zeros(4, dtype=torch.long))
    stripes = (start(problem_of(None, pixels, loss, ThreatModel("linf", 0.1))) - pixels) / 0.1
    torch.testing.assert_close(stripes.abs(), torch.ones_like(stripes))
    torch.testing.assert_close(stripes, stripes[:, :, :1].expand_as(stripes))
    assert 0.3 < (stripes[:, :, 0] > 0).float().mean() < 0.7


@pytest.mark.parametrize(("height", "width"), [(32, 32), (27, 41), (5, 7), (1, 9)])
def test_l2_starts_from_tiles_on_the_sphere(height, width, images):
    """Tiles of the pattern, each with its own sign and direction, as many as fit; epsilon long as a whole."""
    pixels, loss = images(4, height, width) * 0.1 + 0.45, CrossEntropy(torch.zeros(4, dtype=torch.long))
    threat_model = ThreatModel("l2", 0.2)
    change = start(problem_of(None, pixels, loss, threat_model)) - pixels
    torch.testing.assert_close(threat_model.distance(pixels + change, pixels), torch.full((4,), 0.2))
    side = max(1, min(height, width) // 5)
    rows, columns = height // side, width // side
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    inner = change[:, :, top : top + rows * side, left : left + columns * side]
    assert (inner != 0).sum() == (change != 0).sum()
    pattern = square_pattern(side).float() * 0.2 / math.sqrt(3 * rows * columns)
    kinds = set()
    for tile in inner.unfold(2, side, side).unfold(3, side, side).flatten(0, 3):
        shapes = [pattern, pattern.T, -pattern, -pattern.T]
        kinds.add(next(kind for kind, shape in enumerate(shapes) if torch.allclose(tile, shape, atol=1e-6)))
    assert len(kinds) == (4 if side > 1 else 2)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("height", "width"), [(224, 224), (32, 32), (8, 20)])
def test_sides_are_those_of_the_authors_code(norm, height, width):
    """Over all 5000 queries of AutoAttack."""
    module = pytest.importorskip("pyautoattack.square")
    theirs = module.SquareAttack(None, p_init=0.8, n_queries=5000, resc_schedule=False)
    for query in range(5000):
        side = max(int(round(math.sqrt(theirs.p_selection(query) * height * width))), 1 if norm == "linf" else 3)
        side += norm == "l2" and side % 2 == 0
        assert window_side(query, 0.8, height, width, norm) == min(side, height, width)


@pytest.mark.parametrize("threat_model", [ThreatModel("linf", "20/255"), ThreatModel("l2", 0.5)], ids=str)
def test_search_keeps_what_is_higher_until_it_fools(threat_model, curved_victim, images):
    """One sample after the other, without batches: the same images, and no forward pass more."""
    victim, pixels, queries = curved_victim(5, 7).eval(), images(8, 5, 7), 130
    labels = victim(pixels).argmax(dim=1)
    pixels[3] = 1 - pixels[3]
    rows = []
    victim.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    attack = Square(queries=queries)
    adversarial = attack(victim, pixels, Margin(labels), threat_model, sample_generators(5, range(8)))
    spent, rows[:] = sum(rows), []
    verdicts = []
    for index in range(8):
        one = slice(index, index + 1)
        problem = problem_of(victim, pixels[one], Margin(labels[one]), threat_model)
        problem.generators[0].manual_seed(sample_generators(5, [index])[0].initial_seed())
        best = start(problem)
        (highest, fooled), query = problem.judge(best), 0
        while query < queries and not fooled:
            if query % 100 == 0:
                draws = uniform(problem.generators, (min(100, queries - query), NUMBERS[threat_model.norm]))
            side = window_side(query, 0.8, 5, 7, threat_model.norm)
            tried = propose(best, pixels[one], threat_model, side, draws[:, query % 100])
            loss, fooled = problem.judge(tried)
            if fooled or loss > highest:
                best, highest = tried, loss
            query += 1
        assert torch.equal(adversarial[one], best)
        verdicts.append(bool(fooled))
    assert spent == sum(rows)
    assert 0 < sum(verdicts) < 8


@every_threat
def test_loss_never_falls_with_more_queries(threat_model, curved_victim, images):
    """The same numbers are drawn, so that a longer search goes on from a shorter one."""
    victim, pixels = curved_victim(8, 8).eval(), images(6)
    loss = EmbeddingDistance(victim(pixels).detach())
    losses = []
    for queries in (1, 5, 40, 100, 120):
        adversarial = Square(queries=queries)(victim, pixels, loss, threat_model, sample_generators(0, range(6)))
        losses.append(loss(victim(adversarial)))
    assert all((later >= earlier).all() for earlier, later in zip(losses, losses[1:], strict=False))
    assert (losses[-1] > losses[0]).all()


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.025), ("l2", 0.45)])
def test_breaks_as_many_as_the_authors_code(norm, epsilon):
    """A convolutional net, the share of 200 images that falls within 60 queries."""
    module = pytest.importorskip("pyautoattack.square")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        victim = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
        pixels = torch.rand(200, 3, 11, 11)
        labels = victim(pixels).argmax(dim=1)
        authors = module.SquareAttack(
            victim, norm=norm.capitalize(), n_queries=60, eps=epsilon, p_init=0.8, resc_schedule=False
        )
        theirs = (victim(authors.perturb(pixels, labels)).argmax(dim=1) != labels).float().mean()
    generators = sample_generators(0, range(200))
    adversarial = Square(queries=60)(victim, pixels, Margin(labels), ThreatModel(norm, epsilon), generators)
    ours = (victim(adversarial).argmax(dim=1) != labels).float().mean()
    assert 0.2 < theirs < 0.8
    assert abs(ours - theirs) < 0.08


@every_threat
def test_company_and_batch_size_change_nothing(threat_model, curved_victim, images):
    """Bit for bit, over images whose size is no multiple of what a processor adds at once."""
    victim, pixels = curved_victim(5, 7), images(8, 5, 7)
    labels = torch.arange(8) % 2

    def run(rows, batch_size=None):
        generators = sample_generators(3, rows)
        return Square(queries=120)(
            victim, pixels[rows], CrossEntropy(labels[rows]), threat_model, generators, batch_size=batch_size
        )

    together = run(list(range(8)))
    for rows, batch_size in (([0], None), ([7, 1, 4], None), (list(range(8)), 3)):
        assert torch.equal(run(rows, batch_size), together[rows])
    layout = pixels.contiguous(memory_format=torch.channels_last)
    again = Square(queries=120)(victim, layout, CrossEntropy(labels), threat_model, sample_generators(3, range(8)))
    assert torch.equal(again, together)


@pytest.mark.parametrize("labelled", [True, False])
def test_restarts_keep_the_first_that_fools_else_the_highest(labelled, curved_victim, images):
    """Compared with the same searches run one after another."""
    victim, pixels, threat_model = curved_victim(8, 8).eval(), images(8), ThreatModel("linf", "10/255")
    outputs = victim(pixels).detach()
    loss = Margin(outputs.argmax(dim=1)) if labelled else EmbeddingDistance(outputs)
    generators = sample_generators(0, range(8))
    adversarial = Square(queries=3, restarts=3)(victim, pixels, loss, threat_model, generators)
    highest = torch.full((8,), -torch.inf)
    broken, best = torch.zeros(8, dtype=torch.bool), pixels.clone()
    generators = sample_generators(0, range(8))
    for _ in range(3):
        left = (~broken).nonzero().flatten()
        streams = [generators[index] for index in left.tolist()]
        ends = Square(queries=3)(victim, pixels[left], loss[left], threat_model, streams)
        losses = loss[left](victim(ends)).detach()
        fooled = loss[left].fooled(victim(ends)) if labelled else torch.zeros(8, dtype=torch.bool)
        better = fooled | (losses > highest[left])
        best[left[better]], highest[left[better]], broken[left] = ends[better], losses[better], fooled
    assert torch.equal(adversarial, best)
    assert not labelled or 0 < broken.sum() < 8


def test_gradients_are_never_asked_for(linear_victim, images):
    """Also a model without any can be attacked."""
    victim, pixels = linear_victim(8, 8), images(4)
    labels = victim(pixels).argmax(dim=1)
    attack = Square(queries=40)
    assert attack.gradient_passes == 0
    generators = sample_generators(0, range(4))
    adversarial = attack(
        lambda pixels: victim(pixels).detach(), pixels, Margin(labels), ThreatModel("linf", 0.2), generators
    )
    assert (victim(adversarial).argmax(dim=1) != labels).any()


def test_non_finite_loss_is_refused_by_name(linear_victim, images):
    """A comparison with it is never true, and the search would stop without a word."""
    victim, pixels, calls = linear_victim(8, 8), images(4), []

    def forward(pixels):
        calls.append(len(pixels))
        outputs = victim(pixels) * 0
        outputs[1:3] *= torch.nan if len(calls) == 4 else 1
        return outputs

    loss, generators = CrossEntropy(torch.zeros(4, dtype=torch.long)), sample_generators(0, range(4))
    with pytest.raises(FloatingPointError, match=r"not finite at query 3 for the samples at positions \[1, 2\]"):
        Square(queries=9)(forward, pixels, loss, THREATS[0], generators)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"queries": 0}, "Square queries must be an integer >= 1, got 0"),
        ({"queries": 1e3}, "Square queries must be an integer >= 1, got 1000.0"),
        ({"restarts": True}, "Square restarts must be an integer >= 1, got True"),
        ({"p_init": 0}, "above 0 and at most 1, got 0"),
        ({"p_init": 80}, "above 0 and at most 1, got 80"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    """At construction."""
    with pytest.raises(ValueError, match=message):
        Square(**fields)
