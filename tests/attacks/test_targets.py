"""Targets are wrong classes, whatever the logits of the label are."""

import torch

from robust_clip.attacks.targets import rank_wrong_classes


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
