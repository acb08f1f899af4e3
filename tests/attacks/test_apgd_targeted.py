"""The targeted form of APGD: which classes it aims at, and what it refuses."""

import pytest
import torch
from torch import nn

from robust_clip.attacks.apgd import APGD
from robust_clip.attacks.base import sample_generators
from robust_clip.attacks.embedding import EmbeddingDistance
from robust_clip.attacks.losses import DLR, CrossEntropy, Margin
from robust_clip.threat_model import ThreatModel

LINF = ThreatModel("linf", "8/255")


def constant(logits):
    """A victim that gives every image the same logits, by a gradient that is 0."""
    return lambda pixels: logits + 0 * pixels.flatten(1)[:, :1]


def test_targets_are_the_wrong_classes_in_the_order_of_the_clean_image(images):
    """One search for each, cross-entropy and DLR alike; the first of equal classes counts as the more likely."""
    forward, seen = constant(torch.tensor([[1.0, 5.0, 5.0, 3.0, 2.0]])), []
    for loss_type in (CrossEntropy, DLR):

        class Watched(loss_type):
            def towards(self, targets):
                seen.append(targets.tolist())
                return super().towards(targets)

        loss, generators = Watched(torch.tensor([1, 1])), sample_generators(0, range(2))
        APGD(steps=1, targets=4)(forward, images(2), loss, LINF, generators)
    assert seen == [[2, 2], [3, 3], [4, 4], [0, 0]] * 2


def test_a_sample_that_stands_against_all_targets_ends_towards_the_last(images):
    """And one that was misclassified from the start is returned untouched."""
    torch.manual_seed(0)
    pixels, threat_model = images(4, 5, 5), ThreatModel("linf", "0.1/255")
    network = nn.Sequential(nn.Flatten(), nn.Linear(75, 24), nn.Tanh(), nn.Linear(24, 6)).eval()
    ranking = network(pixels).argsort(dim=1, descending=True)
    loss = DLR(ranking[:, 0].clone())
    loss.labels[3] = ranking[3, 1]
    adversarial = APGD(steps=5, targets=2)(network, pixels, loss, threat_model, sample_generators(0, range(4)))
    kept, generators = torch.arange(3), sample_generators(0, range(3))
    single = APGD(steps=5)
    first, last = (
        single(network, pixels[kept], loss[kept].towards(ranking[kept, turn]), threat_model, generators)
        for turn in (1, 2)
    )
    assert not loss[kept].fooled(network(last)).any()
    assert torch.equal(adversarial[kept], last)
    assert not torch.equal(first, last)
    assert torch.equal(adversarial[3], pixels[3])


@pytest.mark.parametrize(
    ("targets", "loss", "message"),
    [
        (9, DLR(torch.tensor([0])), "targets=9 aims at too many wrong classes: of 6 classes only 5 are wrong; use"),
        (6, CrossEntropy(torch.tensor([0])), "targets=6 aims at too many wrong classes: of 6 classes only 5"),
        (1, EmbeddingDistance(torch.zeros(1, 6)), "targets need a loss with labels, got EmbeddingDistance"),
        (1, Margin(torch.tensor([0])), "Margin has no targeted form; use dlr or cross_entropy"),
    ],
)
def test_targets_that_cannot_be_aimed_at_are_refused(targets, loss, message, images):
    """Whatever the images are."""
    forward = constant(torch.eye(6)[:1])

    with pytest.raises(ValueError, match=message):
        APGD(steps=2, targets=targets)(forward, images(1), loss, LINF, sample_generators(0, [0]))


def test_targeted_dlr_on_three_classes_is_refused(images):
    """There are targets, but not the four logits of the ratio."""
    forward = constant(torch.eye(3)[:1])

    with pytest.raises(ValueError, match="needs at least 4 classes, got 3; use an untargeted loss"):
        APGD(steps=2, targets=2)(forward, images(1), DLR(torch.tensor([0])), LINF, sample_generators(0, [0]))
