"""FGSM is one step of PGD."""

import pytest
import torch

from robust_clip.attacks import FGSM, PGD, CrossEntropy, sample_generators
from robust_clip.threat_model import ThreatModel


@pytest.mark.parametrize("threat_model", [ThreatModel("linf", "8/255"), ThreatModel("l2", 0.5)], ids=str)
@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_fgsm_is_one_full_step_of_pgd(threat_model, random_start, batch, curved_victim, images):
    """Bit for bit."""
    victim, pixels, loss = curved_victim(5, 7), images(batch, 5, 7), CrossEntropy(torch.arange(batch) % 2)
    full_step = PGD(steps=1, step_size=threat_model.epsilon, random_start=random_start)
    attacks = (FGSM(random_start=random_start), full_step)
    fgsm, pgd = (attack(victim, pixels, loss, threat_model, sample_generators(0, range(batch))) for attack in attacks)
    assert torch.equal(fgsm, pgd)
    assert not torch.equal(fgsm, pixels)


def test_fgsm_is_its_equation(curved_victim, images):
    """Clean image plus epsilon times the sign of the gradient, clipped to the box."""
    victim, pixels, labels = curved_victim(8, 8).eval(), images(3), torch.tensor([0, 1, 0])
    watched = pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(victim(watched), labels), watched)
    expected = (pixels + 8 / 255 * gradient.sign()).clamp(0, 1)
    loss, generators = CrossEntropy(labels), sample_generators(0, range(3))
    adversarial = FGSM()(victim, pixels, loss, ThreatModel("linf", "8/255"), generators)
    torch.testing.assert_close(adversarial, expected)
