"""An attack and the loss it climbs, aimed at a victim."""

import json

import pytest
import torch

from robust_clip.attacks import DLR, PGD, AttackRun, AutoAttack, CrossEntropy, EmbeddingDistance, Victim


def test_a_row_names_the_attacks_of_an_ensemble():
    parts = AttackRun(PGD(), "margin"), AttackRun(PGD(steps=3), eot_samples=2)
    told = AttackRun(AutoAttack(version="custom", runs=parts)).as_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["parameters"] == {"version": "custom", "runs": [part.as_dict() for part in parts]}


@pytest.mark.parametrize("loss", ["hinge", "CrossEntropy", ""])
def test_an_unknown_loss_lists_the_known(loss):
    known = "known: cross_entropy, margin, dlr, embedding_distance, joint_divergence, objective"
    with pytest.raises(ValueError, match=known):
        AttackRun(PGD(), loss)


def test_a_gradient_needs_a_sample():
    with pytest.raises(ValueError, match="eot_samples must be at least 1, got 0"):
        AttackRun(PGD(), eot_samples=0)


def test_labels_make_the_loss_on_logits(images):
    pixels, labels = images(2), torch.tensor([0, 1])
    forward, loss = AttackRun(PGD(), "dlr").aim(Victim(torch.sin), pixels, labels)
    assert forward is torch.sin
    assert isinstance(loss, DLR)
    assert torch.equal(loss.labels, labels)


def test_clean_features_make_the_loss_on_embeddings(images):
    pixels = images(2)
    forward, loss = AttackRun(PGD(), "embedding_distance").aim(Victim(torch.sin, torch.cos), pixels, torch.zeros(2))
    assert forward is torch.cos
    assert isinstance(loss, EmbeddingDistance)
    assert torch.equal(loss.reference, pixels.cos())
    with pytest.raises(ValueError, match="needs image features, and this victim gives logits only"):
        AttackRun(PGD(), "embedding_distance").aim(Victim(torch.sin), pixels, torch.zeros(2))


def test_an_objective_brings_its_own_problem(images):
    own = (torch.tan, CrossEntropy(torch.tensor([1])))
    victim = Victim(torch.sin, inner_problem=lambda pixels, labels: own)
    assert AttackRun(PGD(), "objective").aim(victim, images(1), torch.tensor([0])) is own
    with pytest.raises(ValueError, match="needs to be told which objective"):
        AttackRun(PGD(), "objective").aim(Victim(torch.sin), images(1), torch.tensor([0]))


def test_a_row_can_say_all_of_it():
    assert str(AttackRun(PGD(), "margin")) == "pgd-margin"
    told = AttackRun(PGD(steps=7), "dlr", eot_samples=20).as_dict()
    assert (told["attack"], told["loss"], told["eot_samples"], told["parameters"]["steps"]) == ("PGD", "dlr", 20, 7)
    assert "eot_samples" not in AttackRun(PGD()).as_dict()
