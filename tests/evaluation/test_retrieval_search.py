"""What attacks on images and captions climb, written out in numpy, and what a protocol refuses."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from paired_clip import CAPTIONS, build_paired_clip, captioned
from robust_clip.attacks import FAB, LEAF, PGD, SGA, AutoAttack, CarliniWagner, WordList
from robust_clip.data import PixelCollator
from robust_clip.evaluation.retrieval import choose_pairs
from robust_clip.evaluation.retrieval_protocol import RetrievalProtocol
from robust_clip.evaluation.retrieval_search import GalleryOdds, PairSearch
from robust_clip.threat_model import ThreatModel

BALL = ThreatModel("linf", "8/255")
IMAGE_OF = np.array([image for image, texts in enumerate(CAPTIONS) for _ in texts])


@pytest.fixture(scope="module")
def victim():
    return build_paired_clip()


@pytest.fixture
def search_for(victim):
    model, processor = victim
    dataset, collator = captioned(), PixelCollator(16)

    def make(**protocol):
        chosen = RetrievalProtocol(**protocol)
        load = lambda pair: collator([dataset[pair.row]])["pixels"][0]  # noqa: E731
        return PairSearch(model, processor.tokenizer, choose_pairs(dataset, chosen), chosen, load, 4)

    with torch.no_grad():
        yield make


def units(features):
    rows = features.double().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def log_odds(logits, own):
    """Log of the summed exponentials of what is not one's own over those of what is, one query at a time."""
    odds = [np.exp(row[~mine]).sum() / np.exp(row[mine]).sum() for row, mine in zip(logits, own, strict=True)]
    return np.log(odds)


def test_gallery_odds_in_plain_numpy():
    generator = torch.Generator().manual_seed(0)
    logits = 9 * torch.randn(5, 8, generator=generator)
    own = torch.rand(5, 8, generator=generator) < 0.4
    own[:, 0], own[:, 1] = True, False
    loss = GalleryOdds(own)
    np.testing.assert_allclose(loss(logits), log_odds(logits.double().numpy(), own.numpy()), rtol=1e-5)
    kept = torch.tensor([3, 1])
    assert torch.equal(loss[kept](logits[kept]), loss(logits)[kept])
    assert loss.fooled(logits) is None


def test_gallery_odds_climb_as_cross_entropy_does_and_do_not_fade():
    """With one own entry, the gradient is that of cross-entropy over the wrong ones' share, far ahead or not."""
    for lead in (0.0, 3.0, 500.0):
        logits = torch.tensor([[lead, 0.3, -0.2, 0.1]], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(GalleryOdds(torch.tensor([[True, False, False, False]]))(logits), logits)
        assert gradient[0, 0] == -1
        torch.testing.assert_close(gradient[0, 1:].sum(), torch.tensor(1.0, dtype=torch.float64))
        if lead < 100:
            loss = functional.cross_entropy(logits, torch.tensor([0]))
            (expected,) = torch.autograd.grad(loss, logits)
            torch.testing.assert_close(gradient, expected / -expected[0, 0], rtol=1e-5, atol=1e-7)


def test_images_climb_the_odds_of_all_captions(search_for):
    search = search_for(image_attack=PGD(), threat_model=BALL)
    positions = [9, 0, 3]
    pixels = torch.stack(search._pixels(positions))
    forward, loss = search._image_aim(pixels, positions)
    logits = search.scale.item() * units(search.clean_images)[positions] @ units(search.clean_captions).T
    own = np.array(positions)[:, None] == IMAGE_OF
    np.testing.assert_allclose(loss(forward(pixels)), log_odds(logits, own), rtol=1e-4)


def test_images_lose_their_cosines_with_their_own_captions(search_for):
    search = search_for(image_attack=PGD(), threat_model=BALL, aim="pair")
    positions = [9, 0, 3]
    pixels = torch.stack(search._pixels(positions))
    forward, loss = search._image_aim(pixels, positions)
    cosines = units(search.clean_images)[positions] @ units(search.clean_captions).T
    expected = [-row[image == IMAGE_OF].sum() for row, image in zip(cosines, positions, strict=True)]
    np.testing.assert_allclose(loss(forward(pixels)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("aim", ["gallery", "pair"])
def test_captions_climb_what_sets_them_apart_from_the_images_shown(aim, shown, search_for, monkeypatch):
    monkeypatch.setattr("robust_clip.evaluation.retrieval_search._CAPTIONS", 7)
    search = search_for(text_attack=LEAF(), aim=aim)
    images = search.clean_images
    if shown:
        images = torch.randn(16, 8)
        search.show_images(images)
    image_of = torch.tensor([5, 0, 12])
    features, owner = torch.randn(30, 8), torch.arange(30) % 3
    scores = search._caption_score(image_of)(features, owner)
    cosines = units(features) @ units(images).T
    own = np.arange(16) == image_of[owner].numpy()[:, None]
    expected = log_odds(search.scale.item() * cosines, own) if aim == "gallery" else -cosines[own]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_captions_of_an_attack_score_higher_than_the_clean_ones(search_for):
    search = search_for(text_attack=WordList(k=20))
    positions = [7, 5, 0]
    changed = search.attack("captions", positions).captions
    assert [len(texts) for texts in changed] == [len(CAPTIONS[position]) for position in positions]
    image_of = torch.tensor([position for position in positions for _ in CAPTIONS[position]])
    score, owner = search._caption_score(image_of), torch.arange(len(image_of))
    before = score(search.embed_captions([CAPTIONS[position] for position in positions]), owner)
    after = score(search.embed_captions(changed), owner)
    assert (after > before).all()
    for position, texts in zip(positions, changed, strict=True):
        for new, old in zip(texts, CAPTIONS[position], strict=True):
            assert sum(map(str.__ne__, new.split(" "), old.split(" "))) == 1


def test_attacked_images_stay_in_the_ball_on_their_own_grid(search_for):
    search = search_for(image_attack=PGD(steps=3), threat_model=BALL)
    clean = search._pixels(range(16))
    assert {image.shape[-1] for image in clean} == {12, 16}
    attacked = search.attack("images", range(16))
    assert attacked.captions == []
    for one, other in zip(attacked.images, clean, strict=True):
        assert 0 < (one - other).abs().max() <= BALL.epsilon + 1e-6
    alone = search.attack("images", [2, 11])
    assert torch.equal(alone.images[1], attacked.images[11])


def test_what_is_not_finite_is_named_by_its_rows(search_for):
    search = search_for(image_attack=PGD(steps=1), threat_model=BALL, samples=5, seed=1)
    search.classifier.class_embeds.fill_(torch.nan)
    rows = [pair.row for pair in search.pairs]
    with pytest.raises(FloatingPointError, match=rf"not finite at step 0 .* among rows \[{rows[1]}, {rows[4]}\]"):
        search.attack("images", [1, 4])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": 0}, "samples must be at least 1, or left out for all, got 0"),
        ({"captions_per_image": 0}, "captions_per_image must be at least 1, or left out for all, got 0"),
        ({"aim": "galery"}, r"aim must be one of \('gallery', 'pair', 'self'\), got 'galery'"),
        ({"resolution": "listed"}, "resolution must be one of"),
        ({"precision": "fp16"}, "precision must be one of"),
        ({"image_attack": PGD()}, "a threat model is needed where images are attacked"),
        ({"text_attack": LEAF(), "threat_model": BALL}, "means nothing elsewhere"),
        ({"joint_attack": SGA()}, "a threat model is needed"),
        ({"joint_attack": SGA(), "text_attack": LEAF(), "threat_model": BALL}, "give it alone, or the other two"),
        ({"joint_attack": SGA(), "threat_model": BALL, "aim": "pair"}, "aim 'pair' is for image_attack and text_att"),
        ({"image_attack": AutoAttack(), "threat_model": BALL}, "AutoAttack looks for another class, and pairs have"),
        ({"image_attack": CarliniWagner(), "threat_model": BALL}, "CarliniWagner looks for another class"),
        ({"joint_attack": SGA(image_attack=FAB()), "threat_model": BALL}, "FAB looks for another class"),
    ],
)
def test_what_fits_nothing_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RetrievalProtocol(**fields)


def test_names_and_stages():
    both = {"image_attack": PGD(), "text_attack": LEAF(), "threat_model": BALL}
    assert RetrievalProtocol(**both).stages == ("captions", "images", "both")
    assert RetrievalProtocol(**both, aim="self").stages == ("captions", "images")
    assert RetrievalProtocol(**both, samples=9, captions_per_image=5).folder == (
        "retrieval-v1-pgd+leaf-gallery-linf-8_255-random9-captions5"
    )
    assert RetrievalProtocol().stages == ()
    assert RetrievalProtocol(seed=2, samples=4).choose(9) == RetrievalProtocol(seed=2, samples=4).choose(9)
    assert RetrievalProtocol(seed=2, samples=4).choose(9) != RetrievalProtocol(seed=3, samples=4).choose(9)
