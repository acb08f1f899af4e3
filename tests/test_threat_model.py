"""Sizes as people write them, and the geometry of the ball and the box."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from robust_clip.threat_model import ThreatModel, format_size, parse_size

NORMS = ["linf", "l2"]


def images(batch=4, height=5, width=7, seed=0):
    """Images with some pixels on the faces of the box."""
    generator = torch.Generator().manual_seed(seed)
    return (1.4 * torch.rand(batch, 3, height, width, generator=generator) - 0.2).clamp(0, 1)


def generators(batch=4, seed=0):
    """One generator per sample."""
    return [torch.Generator().manual_seed(seed + index) for index in range(batch)]


@pytest.mark.parametrize(
    ("size", "value"),
    [("4/255", 4 / 255), ("0.5/255", 0.5 / 255), ("0.03", 0.03), (1, 1.0), (0, 0.0), (" 1 / 4 ", 0.25)],
)
def test_sizes_are_read_as_people_write_them(size, value):
    """Numbers, decimals and fractions."""
    assert parse_size(size) == value


@pytest.mark.parametrize("size", ["four", "4/", "1/0", "1/2/3", -1, "-4/255", math.nan, math.inf, None, True, ""])
def test_what_is_not_a_size_is_refused(size):
    """The message says what was got and what is allowed."""
    with pytest.raises(ValueError, match="a size must be a number >= 0 or a fraction") as error:
        parse_size(size)
    assert repr(size) in str(error.value)


@pytest.mark.parametrize("text", ["4/255", "0.5/255", "2.67/255", "0.5", "0", "1", "0.03"])
def test_sizes_are_written_as_they_were_read(text):
    """Reading and writing are inverse for what people write."""
    assert format_size(parse_size(text)) == text


def test_a_quarter_of_four_is_one_255th():
    """Rounding of a division does not show."""
    assert format_size(parse_size("4/255") / 4) == "1/255"


def test_epsilon_4_is_refused_with_the_hint():
    """The commonest mistake: a size in 255ths given as pixel units."""
    with pytest.raises(ValueError, match=r"got 4: did you mean 4/255\?"):
        ThreatModel("linf", 4)


def test_bad_threat_models_are_refused():
    """Unknown norms list the known ones; sizes must be sizes."""
    with pytest.raises(ValueError, match="unknown norm 'l1', known: linf, l2"):
        ThreatModel("l1", 0.1)
    with pytest.raises(ValueError, match="a size must be"):
        ThreatModel("l2", -1)
    with pytest.raises(ValueError, match="a size must be"):
        ThreatModel("l2", math.nan)


def test_threat_model_is_a_value():
    """Text and number give one value, which is hashable, frozen and can be replaced."""
    threat_model = ThreatModel("linf", "4/255")
    assert threat_model == ThreatModel("linf", 4 / 255)
    assert len({threat_model, ThreatModel("linf", 4 / 255)}) == 1
    assert str(threat_model) == "linf 4/255"
    assert str(ThreatModel("l2", 4)) == "l2 4"
    assert dataclasses.replace(threat_model, epsilon="8/255") == ThreatModel("linf", "8/255")
    assert dataclasses.asdict(threat_model) == {"norm": "linf", "epsilon": 4 / 255}
    with pytest.raises(dataclasses.FrozenInstanceError):
        threat_model.epsilon = 1


@pytest.mark.parametrize("norm", NORMS)
def test_random_start_is_inside_and_depends_on_the_sample_only(norm):
    """A sample's start is the same alone and in a batch, and differs between samples."""
    threat_model, pixels = ThreatModel(norm, 0.3), images()
    start = threat_model.random_start(pixels, generators())
    assert (threat_model.distance(start, pixels) <= 0.3 + 1e-6).all()
    assert (threat_model.distance(start, pixels) > 0).all()
    assert start.min() >= 0
    assert start.max() <= 1
    for index in range(4):
        alone = threat_model.random_start(pixels[index : index + 1], generators()[index : index + 1])
        assert torch.equal(alone[0], start[index])


def test_random_start_fills_the_ball():
    """Changes in linf are uniform; radii in l2 are uniform."""
    pixels = torch.full((400, 3, 4, 4), 0.5)
    cube = ThreatModel("linf", 0.25)
    change = (cube.random_start(pixels, generators(400)) - pixels) / 0.25
    assert change.mean().abs() < 0.01
    assert change.std() == pytest.approx(1 / math.sqrt(3), abs=0.01)
    ball = ThreatModel("l2", 0.25)
    radii = ball.distance(ball.random_start(pixels, generators(400)), pixels) / 0.25
    assert np.quantile(radii.numpy(), [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.08)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1.0, 1e30])
def test_step_has_its_length_whatever_the_scale_of_the_gradient(norm, scale):
    """Saturated losses have tiny gradients; their direction counts all the same."""
    gradient = images(seed=3) + 0.1
    gradient[0] = 0
    step = ThreatModel(norm, 0.1).step(gradient * scale, 0.02)
    assert torch.equal(step[0], torch.zeros_like(step[0]))
    length = ThreatModel(norm, 0.1).distance(step[1:], torch.zeros_like(step[1:]))
    assert length == pytest.approx([0.02] * 3, rel=1e-5)
    expected = ThreatModel(norm, 0.1).step(gradient, 0.02)
    torch.testing.assert_close(step, expected, rtol=1e-4, atol=1e-7)


def nearest_by_bisection(wanted, pixels, epsilon):
    """Projection on ball and box in float64 numpy: y = clip(x + t (w - x)) with t found by bisection."""
    wanted, pixels = wanted.double().numpy(), pixels.double().numpy()
    result = np.empty_like(pixels)
    for index, (target, clean) in enumerate(zip(wanted, pixels, strict=True)):
        low, high = 0.0, 1.0
        if np.linalg.norm(np.clip(target, 0, 1) - clean) > epsilon:
            for _ in range(100):
                middle = (low + high) / 2
                inside = np.linalg.norm(np.clip(clean + middle * (target - clean), 0, 1) - clean) <= epsilon
                low, high = (middle, high) if inside else (low, middle)
            high = low
        result[index] = np.clip(clean + high * (target - clean), 0, 1)
    return result


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.5, 2.0, 100.0])
@pytest.mark.parametrize("reach", [0.01, 0.3, 30.0])
def test_l2_projection_is_the_nearest_point_of_ball_and_box(epsilon, reach):
    """Compared with an independent float64 search, from inside and far outside, with the box in the way."""
    pixels = images()
    wanted = pixels + reach * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1))
    projected = ThreatModel("l2", epsilon).project(wanted, pixels)
    np.testing.assert_allclose(projected.numpy(), nearest_by_bisection(wanted, pixels, epsilon), atol=2e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_does_not_move_what_is_inside(norm):
    """Projecting twice is projecting once, and epsilon 0 gives the clean images back, bit for bit."""
    pixels = images()
    wanted = pixels + torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1))
    threat_model = ThreatModel(norm, 0.2)
    once = threat_model.project(wanted, pixels)
    torch.testing.assert_close(threat_model.project(once, pixels), once, rtol=0, atol=1e-6)
    assert torch.equal(ThreatModel(norm, 0).project(wanted, pixels), pixels)


@pytest.mark.parametrize("norm", NORMS)
def test_geometry_does_not_depend_on_the_batch(norm):
    """Large images too, where a reduction over a batch of one would be summed in another order."""
    pixels = images(batch=3, height=128, width=128)
    wanted = pixels + 0.01 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1))
    threat_model = ThreatModel(norm, 0.005 if norm == "linf" else 1.0)
    together = threat_model.project(pixels + threat_model.step(wanted, 3.0), pixels)
    for index in range(3):
        one = slice(index, index + 1)
        alone = threat_model.project(pixels[one] + threat_model.step(wanted[one], 3.0), pixels[one])
        assert torch.equal(alone, together[one])
        assert torch.equal(threat_model.distance(alone, pixels[one]), threat_model.distance(together, pixels)[one])


def test_distance_is_the_norm_of_the_change():
    """Worked by hand."""
    pixels, adversarial = torch.zeros(1, 3, 1, 1), torch.tensor([0.3, 0.0, 0.4]).reshape(1, 3, 1, 1)
    assert ThreatModel("linf", 1).distance(adversarial, pixels).tolist() == pytest.approx([0.4])
    assert ThreatModel("l2", 1).distance(adversarial, pixels).tolist() == pytest.approx([0.5])
