"""The one place of the backward pass, and what is refused at the door."""

import functools

import pytest
import torch
from torch import nn

from robust_clip.attacks import (
    APGD,
    PGD,
    Attack,
    CrossEntropy,
    EmbeddingDistance,
    Margin,
    Problem,
    Square,
    input_gradient,
    sample_generators,
)
from robust_clip.threat_model import ThreatModel

LINF = ThreatModel("linf", "4/255")


def run(forward, pixels, loss=None, attack=None, generators=None):
    """One short attack."""
    loss = CrossEntropy(torch.zeros(len(pixels), dtype=torch.long)) if loss is None else loss
    generators = sample_generators(0, range(len(pixels))) if generators is None else generators
    return (attack or PGD(steps=3))(forward, pixels, loss, LINF, generators)


@pytest.mark.parametrize("attack", [PGD(steps=3), APGD(steps=3), Square(queries=5)], ids=repr)
def test_without_generators_they_are_those_of_seed_zero_each_time(attack, curved_victim, images):
    victim, pixels, loss = curved_victim(8, 8).eval(), images(3), CrossEntropy(torch.tensor([0, 1, 0]))
    first, again = (attack(victim, pixels, loss, LINF) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(first, attack(victim, pixels, loss, LINF, sample_generators(0, range(3))))
    assert not torch.equal(first, attack(victim, pixels, loss, LINF, sample_generators(1, range(3))))


def test_labels_are_no_loss(linear_victim, images):
    with pytest.raises(ValueError, match=r"wrap labels: CrossEntropy\(labels\)"):
        PGD()(linear_victim(8, 8), images(2), torch.tensor([0, 1]), LINF)


def test_gradient_of_a_sample_does_not_depend_on_the_batch_size(curved_victim, images):
    """Losses are summed: averaged, this gradient would be an eighth in a batch of eight."""
    victim, pixels, labels = curved_victim(8, 8).eval(), images(8), torch.arange(8) % 2
    together = input_gradient(victim, pixels, CrossEntropy(labels))
    for index in range(8):
        one = slice(index, index + 1)
        alone = input_gradient(victim, pixels[one], CrossEntropy(labels[one]))
        assert all(torch.equal(mine, ours[one]) for mine, ours in zip(alone, together, strict=True))


def test_gradient_is_that_of_the_closed_form(linear_victim, images):
    """For a linear victim and the margin loss: the other class's weights minus the label's."""
    victim, pixels = linear_victim(5, 7), images(2, 5, 7)
    gradient, _, _ = input_gradient(victim, pixels, Margin(torch.tensor([0, 1]), confidence=1000.0))
    difference = (victim.weight[1] - victim.weight[0]).detach()
    torch.testing.assert_close(gradient, torch.stack([difference, -difference]))
    assert victim.weight.grad is None


def test_loss_and_step_are_float32_whatever_the_features(linear_victim, images):
    """Half-precision outputs do not make half-precision images."""
    victim, pixels, dtypes = linear_victim(8, 8), images(2), []

    class Watched(CrossEntropy):
        def __call__(self, outputs):
            losses = super().__call__(outputs)
            dtypes.append((outputs.dtype, losses.dtype))
            return losses

    adversarial = run(lambda pixels: victim(pixels).bfloat16(), pixels, Watched(torch.zeros(2, dtype=torch.long)))
    assert set(dtypes) == {(torch.bfloat16, torch.float32)}
    assert adversarial.dtype == torch.float32


def test_training_step_after_an_attack_under_autocast_still_learns(images):
    """Autocast caches its casts of the weights; those made for the attack must not cut the update's gradient."""
    victim, pixels, labels = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), images(4), torch.arange(4) % 2
    with torch.autocast("cpu", torch.bfloat16):
        adversarial = run(victim, pixels, CrossEntropy(labels))
        loss = CrossEntropy(labels)(victim(adversarial)).mean()
    loss.backward()
    assert victim[1].weight.grad.abs().max() > 0
    assert victim.training


@pytest.mark.parametrize("what", ["outputs", "gradient"])
def test_non_finite_is_refused_by_name(what, images):
    """The message says at which step and for which samples of the caller's batch."""
    pixels, calls = images(4), []

    def forward(pixels):
        calls.append(len(pixels))
        logits = pixels.flatten(1)[:, :2]
        if len(calls) < 3:
            return logits
        poison = torch.tensor([1.0, torch.nan, 1.0, torch.inf]).unsqueeze(1)
        if what == "outputs":
            return logits * poison
        logits.register_hook(lambda gradient: gradient * poison)
        return logits

    with pytest.raises(FloatingPointError, match=r"not finite at step 2 for the samples at positions \[1, 3\]"):
        run(forward, pixels)


def test_positions_named_are_those_of_the_whole_batch(images):
    """Also when some samples have left the search."""
    pixels = images(4)
    pixels[:, :, 0, 0], pixels[:, :, 0, 1] = 0.0, 1.0
    pixels[2, :, 0, 0], pixels[2, :, 0, 1] = 1.0, 0.0

    def forward(pixels):
        logits = pixels[:, 0, 0, :2]
        return logits * torch.nan if len(pixels) == 1 else logits

    with pytest.raises(FloatingPointError, match=r"step 1 for the samples at positions \[2\]"):
        run(forward, pixels, attack=PGD(steps=3, random_start=False, stop_when_fooled=True))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda pixels: pixels[0], r"must be a batch of RGB images, \(B, 3, H, W\), got \(3, 8, 8\)"),
        (lambda pixels: pixels[:, :1], r"must be a batch of RGB images"),
        (lambda pixels: pixels[:0], r"must be a batch of RGB images"),
        (lambda pixels: pixels * 255, r"must lie in \[0, 1\], got 0 to 255: attack images as they are before"),
        (lambda pixels: pixels - 0.5, r"must lie in \[0, 1\], got -0.5"),
        (lambda pixels: pixels * torch.nan, r"must lie in \[0, 1\], got nan"),
        (lambda pixels: pixels.half(), r"must be float32 or float64, got torch.float16: half precision"),
        (lambda pixels: (pixels * 255).byte(), r"must be float32 or float64, got torch.uint8"),
    ],
)
def test_pixels_that_are_not_images_are_refused(spoil, message, linear_victim, images):
    """Each with what was got and what is wanted."""
    with pytest.raises(ValueError, match=message):
        run(linear_victim(8, 8), spoil(images(2)))


def test_generators_must_match_the_batch(linear_victim, images):
    """One per sample."""
    with pytest.raises(ValueError, match="one generator per sample is needed, got 3 for 2 samples"):
        run(linear_victim(8, 8), images(2), generators=sample_generators(0, range(3)))


def test_averaged_loss_is_refused(linear_victim, images):
    """A mean hides the samples from one another."""

    class Mean(CrossEntropy):
        def __call__(self, outputs):
            return super().__call__(outputs).mean()

    with pytest.raises(ValueError, match=r"a loss must give one value per sample, \(2,\), got \(\)"):
        run(linear_victim(8, 8), images(2), Mean(torch.zeros(2, dtype=torch.long)))


def test_forward_without_a_gradient_is_refused(linear_victim, images):
    """Whether nothing is differentiable or only the parameters are."""
    victim = linear_victim(8, 8)
    for forward in (lambda pixels: victim(pixels).detach(), lambda pixels: victim(pixels.detach())):
        with pytest.raises(ValueError, match="no gradient reaches the pixels"):
            run(forward, images(2))


def test_attack_that_cheats_is_stopped(linear_victim, images):
    """The ball, the box and the shape are checked outside the search."""

    class Cheat(Attack):
        gradient_passes = 0

        def __init__(self, change):
            self.change = change

        def search(self, problem):
            return self.change(problem.pixels)

    pixels = images(2) * 0.5
    for change in (lambda x: x + 5 / 255, lambda x: x - 0.01, lambda x: x * torch.nan):
        with pytest.raises(RuntimeError, match=r"left the box \[0, 1\] or linf 4/255"):
            run(linear_victim(8, 8), pixels, attack=Cheat(change))
    for change in (lambda x: x[:1], torch.Tensor.double):
        with pytest.raises(RuntimeError, match="another shape or type"):
            run(linear_victim(8, 8), pixels, attack=Cheat(change))


def test_functions_that_are_no_modules_can_be_attacked(linear_victim, images):
    """A closure has no mode to switch; it gives the same images as the module."""
    victim, pixels = linear_victim(8, 8), images(3)
    expected = run(victim, pixels)
    assert torch.equal(run(functools.partial(victim), pixels), expected)


def problem_of(forward, pixels, loss, **how):
    generators = sample_generators(0, range(len(pixels)))
    return Problem(forward, pixels, loss, ThreatModel("linf", "4/255"), generators, torch.arange(len(pixels)), **how)


def test_judging_is_a_fresh_forward(curved_victim, images):
    """Losses and verdicts of the outputs, without a graph; None where there are no labels."""
    victim, pixels, labels = curved_victim(8, 8).eval(), images(4), torch.arange(4) % 2
    losses, fooled = problem_of(victim, pixels, CrossEntropy(labels)).judge(pixels)
    outputs = victim(pixels).detach()
    assert torch.equal(losses, CrossEntropy(labels)(outputs))
    assert torch.equal(fooled, outputs.argmax(dim=1) != labels)
    assert not losses.requires_grad
    assert problem_of(victim, pixels, EmbeddingDistance(outputs)).judge(pixels)[1] is None


def test_batches_are_made_up_of_those_that_are_left(curved_victim, images):
    """Seven samples in batches of three; after three have left, four in batches of three."""
    victim, pixels, labels = curved_victim(8, 8).eval(), images(7), torch.arange(7) % 2
    sizes = []
    victim.dropout.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    problem = problem_of(victim, pixels, CrossEntropy(labels), batch_size=3)
    whole = problem_of(victim, pixels, CrossEntropy(labels)).gradient(pixels, 0)
    sizes.clear()
    for part, together in zip(problem.gradient(pixels, 0), whole, strict=True):
        assert torch.equal(part, together)
    few = torch.tensor([6, 0, 3, 2])
    problem[few].outputs(pixels[few])
    assert sizes == [3, 3, 1, 3, 1]


def test_gradients_of_a_random_model_are_averaged(linear_victim, images):
    class Noisy(linear_victim):
        def forward(self, pixels):
            return super().forward(pixels) * torch.rand(len(pixels), 1)

    torch.manual_seed(0)
    pixels, labels = images(2), torch.tensor([0, 1])
    loss = Margin(labels, confidence=1e4)
    expected, _, _ = input_gradient(linear_victim(8, 8), pixels, loss)
    gradient, outputs, losses = problem_of(Noisy(8, 8), pixels, loss, eot_samples=2000).gradient(pixels, 0)
    torch.testing.assert_close(gradient, expected / 2, rtol=0.1, atol=0.02)
    assert outputs.shape == losses.shape + (2,)


@pytest.mark.parametrize("how", [{"batch_size": 0}, {"eot_samples": 0}])
def test_counts_are_checked(how, linear_victim, images):
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        PGD()(linear_victim(8, 8), images(1), CrossEntropy(torch.tensor([0])), ThreatModel("linf", 0.1), [None], **how)


def test_generators_are_per_sample_and_seed():
    """Different samples and seeds give different streams, the same give the same."""
    streams = {
        (seed, index): torch.rand(4, generator=sample_generators(seed, [index])[0])
        for seed in (0, 1)
        for index in (0, 1, 10)
    }
    assert len({tuple(stream.tolist()) for stream in streams.values()}) == 6
    again = sample_generators(1, torch.tensor([10, 0]))
    assert torch.equal(torch.rand(4, generator=again[0]), streams[1, 10])
    assert torch.equal(torch.rand(4, generator=again[1]), streams[1, 0])
