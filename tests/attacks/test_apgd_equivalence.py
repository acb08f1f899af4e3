"""APGD against the authors' code, as `pyautoattack` publishes it."""


import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch.nn import functional

from robust_clip.attacks.apgd import APGD, checkpoints
from robust_clip.attacks.base import sample_generators
from robust_clip.attacks.losses import DLR, CrossEntropy
from robust_clip.threat_model import ThreatModel
from tests.reference.ascent import Unlabelled


def run(attack, forward, pixels, loss, threat_model, seed=0, **options):
    """One attack on samples 0, 1, 2, ... of a data set."""
    return attack(forward, pixels, loss, threat_model, sample_generators(seed, range(len(pixels))), **options)


class SameStart:
    """The authors' code begun where ours begins, with the loss there in place of the 0 it takes."""

    start_losses = None

    def __init__(self, predict, threat_model, pixels, **options):
        super().__init__(predict, norm=threat_model.norm.title(), eps=threat_model.epsilon, **options)
        self.clean, self.threat_model = pixels, threat_model
        self.generators = sample_generators(0, range(len(pixels)))
        self.init_hyperparam(pixels)

    def attack_single_run(self, x, y, x_init=None):
        rows = [next(row for row, image in enumerate(self.clean) if torch.equal(image, one)) for one in x]
        start = self.threat_model.random_start(x, [self.generators[row] for row in rows])
        losses = {
            "ce": lambda logits, label: functional.cross_entropy(logits, label, reduction="none"),
            "dlr": self.dlr_loss,
            "dlr-targeted": getattr(self, "dlr_loss_targeted", None),
        }
        self.start_losses = losses[self.loss](self.model(start), y).detach()
        return super().attack_single_run(x, y, start)

    def check_oscillation(self, x, j, k, *rest, **options):
        if j + 1 == k:  # the first checkpoint reads row -1 for the start, which holds zeros until the last step
            x = torch.cat([x[:-1], self.start_losses.unsqueeze(0)])
        return super().check_oscillation(x, j, k, *rest, **options)


class TheirAPGD(SameStart, APGDAttack):
    pass


class TheirTargetedAPGD(SameStart, APGDAttack_targeted):
    pass


@pytest.mark.parametrize("threat_model", [ThreatModel("linf", "4/255"), ThreatModel("l2", 0.2)], ids=str)
@pytest.mark.parametrize("loss_name", ["ce", "dlr", "dlr-targeted"])
@pytest.mark.parametrize("steps", [10, 50])
def test_every_sample_ends_where_the_authors_code_ends(loss_name, threat_model, steps, network, images):
    """The same loss reached from the same start, whether or not the sample falls; for linf the very same image."""
    pixels = images(8, 5, 5)
    if threat_model.norm == "l2":  # only in the middle of the box do the two projections agree
        pixels = pixels * 0.2 + 0.4
    ranking = network(pixels).argsort(dim=1, descending=True)
    labels, targets = ranking[:, 0], ranking[:, 2]
    if loss_name == "dlr-targeted":
        theirs, loss = TheirTargetedAPGD(network, threat_model, pixels, n_iter=steps), DLR(labels).towards(targets)
        theirs.y_target = targets
    else:
        theirs = TheirAPGD(network, threat_model, pixels, n_iter=steps, loss=loss_name)
        loss = {"ce": CrossEntropy, "dlr": DLR}[loss_name](labels)
    images_reached, right, losses_reached, _ = theirs.attack_single_run(pixels, labels)

    end = run(APGD(steps=steps), network, pixels, Unlabelled(loss), threat_model)
    torch.testing.assert_close(loss(network(end)), losses_reached, rtol=1e-4, atol=1e-5)
    if threat_model.norm == "linf":
        assert torch.equal(end, images_reached)
    adversarial = run(APGD(steps=steps), network, pixels, loss, threat_model)
    assert torch.equal(loss.fooled(network(adversarial)), ~right)


@pytest.mark.parametrize("restarts", [1, 2])
def test_targeted_form_fools_what_the_authors_targeted_form_fools(restarts, network, images):
    """The whole search, over targets and restarts: the same samples leave at the same turn, from the same starts."""
    pixels, threat_model = images(24, 5, 5), ThreatModel("linf", "6/255")
    labels = network(pixels).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 6
    options = {"n_iter": 10, "n_target_classes": 4, "n_restarts": restarts}
    theirs = TheirTargetedAPGD(network, threat_model, pixels, **options)
    expected = network(theirs.perturb(pixels, labels)).argmax(dim=1) != labels
    attack = APGD(steps=10, targets=4, restarts=restarts)
    adversarial = run(attack, network, pixels, DLR(labels), threat_model)
    assert torch.equal(DLR(labels).fooled(network(adversarial)), expected)
    assert 4 < expected.sum() < 22
    assert torch.equal(adversarial[0], pixels[0])


def test_l2_in_the_corners_of_the_box_is_no_weaker_than_the_authors_code(network, images):
    """Their projection ends strictly inside the ball where the box cuts it."""
    pixels, threat_model = images(8, 5, 5), ThreatModel("l2", 0.2)
    labels = network(pixels).argmax(dim=1)
    _, _, theirs, _ = TheirAPGD(network, threat_model, pixels, n_iter=50).attack_single_run(pixels, labels)
    loss = CrossEntropy(labels)
    ours = loss(network(run(APGD(steps=50), network, pixels, Unlabelled(loss), threat_model)))
    assert (ours >= theirs - 1e-5).all()
    assert (ours > theirs + 1e-5).any()


def test_checkpoints_are_those_of_the_authors_code():
    """Written out for 100 and 10 steps, and by their own three numbers for the rest."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10) == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    for steps in range(1, 301):
        theirs = APGDAttack(None, n_iter=steps, eps=1)
        marks, waited, period = [], 0, theirs.n_iter_2
        for step in range(1, steps + 1):
            waited += 1
            if waited == period:
                marks, waited, period = [*marks, step], 0, max(period - theirs.size_decr, theirs.n_iter_min)
        assert checkpoints(steps) == marks
