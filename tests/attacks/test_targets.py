"""Targets are wrong classes, whatever the logits of the label are."""

import pytest
import torch
from torch import nn

from robust_clip.attacks import APGD, FAB, CrossEntropy, sample_generators
from robust_clip.attacks.targets import rank_wrong_classes
from robust_clip.models import Draws
from robust_clip.threat_model import ThreatModel


def test_wrong_classes_come_in_the_order_of_their_logits():
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 7), torch.randint(7, (50,))
    ranking = rank_wrong_classes(logits, labels)
    assert ranking.shape == (50, 6)
    assert not (ranking == labels.unsqueeze(1)).any()
    ranked = logits.gather(1, ranking)
    assert (ranked[:, :-1] >= ranked[:, 1:]).all()


def test_for_rightly_classified_images_it_is_the_order_of_all_classes_but_the_first():
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    logits[:, 3] = logits.amax(dim=1)  # as large as the largest
    ordered = logits.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(rank_wrong_classes(logits, logits.argmax(dim=1)), ordered[:, 1:])


@pytest.mark.parametrize(
    ("attack", "threat_model"),
    [(APGD(steps=6, targets=5), ThreatModel("linf", 0.012)), (FAB(steps=6, targets=5), ThreatModel("l2", 0.2))],
    ids=["apgd", "fab"],
)
def test_targets_beside_each_other_find_what_they_find_one_after_the_other(attack, threat_model):
    """Few samples fill a batch by taking several targets at once, in fewer passes of as many rows if they stand."""
    torch.manual_seed(0)
    victim = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(200, 10)).eval()
    pixels = torch.rand(12, 3, 10, 9)
    loss, passes, images = CrossEntropy(victim(pixels).argmax(dim=1)), {}, {}
    for batch_size in (None, 12, 36):
        seen = []

        def forward(batch, seen=seen):
            seen.append(len(batch))
            return victim(batch)

        generators = sample_generators(0, range(12))
        images[batch_size] = attack(forward, pixels, loss, threat_model, generators, batch_size=batch_size)
        passes[batch_size] = seen
    assert 0 < loss.fooled(victim(images[None])).sum() < 12
    assert torch.equal(images[None], images[12])
    assert torch.equal(images[None], images[36])
    assert max(passes[36]) > 12
    assert len(passes[36]) < 0.8 * len(passes[None])


@pytest.mark.parametrize("attack", [APGD(steps=3, targets=5), FAB(steps=3, targets=5)], ids=["apgd", "fab"])
def test_of_a_model_that_draws_lots_no_sample_depends_on_the_batch(attack):
    """Whose draws go on each time that it sees an image again."""
    torch.manual_seed(0)
    weight, pixels = torch.randn(10, 3 * 8 * 8), torch.rand(8, 3, 8, 8)
    loss, images = CrossEntropy((pixels.flatten(1) @ weight.T).argmax(dim=1)), {}
    for batch_size in (None, 32):
        draws = Draws("attacker", fresh=True)

        def forward(batch, draws=draws):
            noise = torch.stack([torch.randn(3, 8, 8, generator=each) for each in draws(batch)])
            return (batch + 0.05 * noise).flatten(1) @ weight.T

        generators = sample_generators(0, range(8))
        images[batch_size] = attack(
            forward, pixels, loss, ThreatModel("l2", 0.02), generators, batch_size=batch_size, eot_samples=3
        )
    assert torch.equal(images[None], images[32])
    assert not torch.equal(images[None], pixels)
