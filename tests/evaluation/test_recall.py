"""Ranks and recalls against loops over every pair, several captions per image and ties included."""

import numpy as np
import pytest
import torch

from robust_clip.evaluation import recall
from robust_clip.evaluation.metrics import wilson_interval
from robust_clip.evaluation.recall import caption_owners, recalls, retrieval_ranks


def ranks_in_loops(images, captions, image_of):
    """One query, one entry of the gallery at a time; a wrong entry that ties counts as better."""

    def cosine(first, second):
        return np.float32(first @ second / np.linalg.norm(first) / np.linalg.norm(second))

    of_images, of_captions = [], []
    for place, image in enumerate(images):
        best = max(cosine(image, caption) for caption, own in zip(captions, image_of, strict=True) if own == place)
        wrong = [cosine(image, caption) for caption, own in zip(captions, image_of, strict=True) if own != place]
        of_images.append(sum(bool(one >= best) for one in wrong))
    for caption, own in zip(captions, image_of, strict=True):
        right = cosine(caption, images[own])
        wrong = [cosine(caption, image) for place, image in enumerate(images) if place != own]
        of_captions.append(sum(bool(one >= right) for one in wrong))
    return {"image_to_text": of_images, "text_to_image": of_captions}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [2, 1000])
def test_ranks_are_those_of_loops(seed, levels, monkeypatch):
    """With 2 levels features are rows of ones and zeros, so most of the gallery ties; with 1000 nothing does."""
    monkeypatch.setattr(recall, "_QUERIES", 16)
    random = np.random.default_rng(seed)
    image_of = np.repeat(np.arange(60), random.integers(1, 4, 60))
    images = random.integers(0, levels, (60, 7)) + 0.0
    captions = random.integers(0, levels, (len(image_of), 7)) + 0.0
    images[:, 0] = captions[:, 0] = 1
    found = retrieval_ranks(*map(torch.tensor, (images, captions, image_of)))
    expected = ranks_in_loops(images, captions, image_of)
    assert {way: ranks.tolist() for way, ranks in found.items()} == expected
    assert min(max(ranks) for ranks in expected.values()) > 0


def test_an_image_is_found_by_any_of_its_captions_and_each_caption_asks_for_itself():
    images = torch.eye(3)
    captions = torch.tensor([[0.05, 1.0, 0.0], [1.0, 0.1, 0.0], [0.0, 1.0, 0.1], [0.0, 0.0, 1.0]])
    found = retrieval_ranks(images, captions, torch.tensor([0, 0, 1, 2]))
    assert found["image_to_text"].tolist() == [0, 1, 0]
    assert found["text_to_image"].tolist() == [1, 0, 0, 0]


def test_ties_never_help():
    """A model that embeds everything alike finds nothing, wherever its equal entries lie."""
    for n in (2, 9, 33, 70):
        alike = torch.randn(1, 5).expand(n, 5)
        found = retrieval_ranks(alike, alike, torch.arange(n))
        assert all(ranks.tolist() == [n - 1] * n for ranks in found.values())


def test_a_caption_that_two_images_share_hinders_both():
    images = torch.nn.functional.normalize(torch.randn(20, 16), dim=1)
    captions = images.clone()
    captions[19] = captions[3]
    found = retrieval_ranks(images, captions, torch.arange(20))
    assert found["image_to_text"][3] == 1
    assert found["image_to_text"].sum() == 1 + found["image_to_text"][19]


def test_lengths_of_features_do_not_matter():
    images, captions = torch.randn(2, 30, 6)
    lengths = torch.rand(30, 1) + 0.1
    first = retrieval_ranks(images, captions, torch.arange(30))
    second = retrieval_ranks(images * lengths, captions * lengths.flip(0), torch.arange(30))
    assert all(torch.equal(first[way], second[way]) for way in first)


def test_features_that_are_not_finite_are_refused():
    images, captions = torch.eye(4), torch.eye(4)
    captions[2, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="features of 1 captions are not finite, the first is number 2"):
        retrieval_ranks(images, captions, torch.arange(4))


def test_recalls_are_shares_of_ranks_below_the_cutoff():
    found = recalls(torch.tensor([0, 0, 1, 4, 5, 9, 10, 99]))
    assert {name: one["recall"] for name, one in found.items()} == {"R@1": 2 / 8, "R@5": 4 / 8, "R@10": 6 / 8}
    assert found["R@5"]["interval"] == list(wilson_interval(4, 8))


def test_owners_of_captions():
    assert caption_owners([["a"], ["b", "c", "d"], ["e"]]).tolist() == [0, 1, 1, 1, 2]
