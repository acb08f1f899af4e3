"""Co-Attack and SGA on linear encoders, and the losses that their image steps climb."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from robust_clip.attacks.base import sample_generators
from robust_clip.attacks.character import LEAF, Charmer
from robust_clip.attacks.embedding import JointDivergence, SetDissimilarity, unit_divergence
from robust_clip.attacks.multimodal import MULTIMODAL_ATTACKS, SGA, CoAttack
from robust_clip.attacks.pgd import PGD
from robust_clip.attacks.scaled_views import ScaledViews
from robust_clip.attacks.word_list import WordList
from robust_clip.paper import Paper
from robust_clip.threat_model import ThreatModel
from toy_encoders import BagEncoder, words

PAIRS = [["a red boat"], ["This is a photo of a dog"], ["old bridge over the river"], ["two small cats"]]
SETS = [["a red boat", "boat on a lake"], ["a dog"], ["old bridge", "river", "a bridge over the river"], ["two cats"]]
THREATS = [ThreatModel("linf", "8/255"), ThreatModel("l2", 0.5)]
ATTACKS = [
    (CoAttack(text_attack=WordList(k=20), image_attack=PGD(steps=4)), PAIRS),
    (SGA(text_attack=WordList(k=20), image_attack=PGD(steps=4)), SETS),
]

every_attack = pytest.mark.parametrize(("attack", "texts"), ATTACKS, ids=["co_attack", "sga"])
every_threat = pytest.mark.parametrize("threat_model", THREATS, ids=str)


class ImageTower(nn.Module):
    """Features that are linear in the pixels, summed in an order that does not depend on the batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(3)))
        self.dropout = nn.Dropout(0.5)

    def forward(self, pixels):
        return (self.dropout(pixels).unsqueeze(1) * self.weight.to(pixels)).flatten(2).sum(dim=2)


@pytest.fixture
def tower():
    return ImageTower().eval()


def run(attack, tower, pixels, texts, threat_model=THREATS[0], rows=None, **settings):
    if rows is not None:
        pixels, texts = pixels[rows], [texts[row] for row in rows]
    generators = sample_generators(0, range(len(pixels)) if rows is None else rows)
    return attack(tower, BagEncoder(words), pixels, texts, threat_model, generators, **settings)


def softmaxes(rows):
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)


def divergence(first, second):
    p, q = softmaxes(first), softmaxes(second)
    return (p * np.log(p / q)).sum(axis=1)


def test_registry_has_every_attack_by_its_short_name():
    assert {name: attack.short_name for name, attack in MULTIMODAL_ATTACKS.items()} == {
        "co_attack": "co_attack",
        "sga": "sga",
    }
    assert all(isinstance(attack.paper, Paper) for attack in MULTIMODAL_ATTACKS.values())


def test_joint_divergence_in_plain_numpy():
    """KL from the clean image plus weight times KL from the caption, the clean side first."""
    image, text, outputs = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = JointDivergence(image, text, weight=3.0)
    expected = divergence(image.numpy(), outputs.numpy()) + 3 * divergence(text.numpy(), outputs.numpy())
    np.testing.assert_allclose(loss(outputs).numpy(), expected, rtol=1e-4)
    np.testing.assert_allclose(unit_divergence(image, outputs).numpy(), divergence(image.numpy(), outputs.numpy()))
    kept = torch.tensor([4, 1])
    np.testing.assert_allclose(loss[kept](outputs[kept]).numpy(), expected[[4, 1]], rtol=1e-4)
    assert loss.fooled(outputs) is None


def test_set_dissimilarity_in_plain_numpy():
    """Minus the cosine of every view with every caption, one by one."""
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, 5, 7, generator=generator)
    captions = [torch.randn(count, 7, generator=generator) for count in (3, 1)]
    sums = torch.stack([nn.functional.normalize(group, dim=1).sum(dim=0) for group in captions])
    expected = [
        -sum(float(nn.functional.cosine_similarity(view, caption, dim=0)) for view in image for caption in group)
        for image, group in zip(views, captions, strict=True)
    ]
    loss = SetDissimilarity(sums)
    np.testing.assert_allclose(loss(views).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(loss[torch.tensor([1])](views[1:]).numpy(), expected[1:], rtol=1e-5)


@every_attack
@every_threat
def test_images_stay_in_the_ball_and_captions_with_their_images(attack, texts, threat_model, tower, images):
    pixels = images(4)
    before = pixels.clone()
    adversarial, found = run(attack, tower, pixels, texts, threat_model)
    assert adversarial.shape == pixels.shape
    assert 0 <= adversarial.min() <= adversarial.max() <= 1
    assert (threat_model.distance(adversarial, pixels) <= threat_model.epsilon + 1e-6).all()
    assert torch.equal(pixels, before)
    assert [len(captions) for captions in found] == [len(captions) for captions in texts]
    changed = [
        sum(map(str.__ne__, new.split(" "), old.split(" ")))
        for sets in zip(found, texts, strict=True)
        for new, old in zip(*sets, strict=True)
    ]
    assert changed == [1] * len(changed)


@every_attack
def test_results_depend_on_seed_and_sample_alone(attack, texts, tower, images):
    pixels = images(4)
    together, captions = run(attack, tower, pixels, texts)
    assert torch.equal(attack(tower, BagEncoder(words), pixels, texts, THREATS[0])[0], together)
    for rows in ([2], [3, 0], [1, 2, 3]):
        alone, found = run(attack, tower, pixels, texts, rows=rows)
        assert torch.equal(alone, together[rows])
        assert found == [captions[row] for row in rows]
    batched, found = run(attack, tower, pixels, texts, batch_size=3)
    assert torch.equal(batched, together)
    assert found == captions
    assert run(attack, tower, pixels, texts, seed=5)[1] != captions


@every_attack
def test_the_towers_are_left_as_they_were(attack, texts, images):
    tower, pixels = ImageTower(), images(4)
    expected, captions = run(attack, tower.eval(), pixels, texts)
    tower.train()
    with torch.inference_mode():
        adversarial, found = run(attack, tower, pixels, texts)
    assert torch.equal(adversarial, expected)
    assert found == captions
    assert tower.training
    assert tower.dropout.training
    assert tower.weight.grad is None


@every_threat
def test_co_attack_raises_its_joint_divergence(threat_model, tower, images):
    """The captions' own distance first, and then the images' loss with those captions."""
    pixels, encode = images(4), BagEncoder(words)
    attack = CoAttack(text_attack=WordList(k=20), image_attack=PGD(steps=8))
    adversarial, found = run(attack, tower, pixels, PAIRS, threat_model)
    flat = [captions[0] for captions in PAIRS]
    assert [captions[0] for captions in found] == attack.text_attack(encode, flat)
    with torch.no_grad():
        loss = JointDivergence(tower(pixels), encode([captions[0] for captions in found]))
        start = threat_model.random_start(pixels, sample_generators(0, range(4)))
        assert (loss(tower(adversarial)) > loss(tower(pixels))).all()
        assert (loss(tower(adversarial)) > loss(tower(start))).all()
        expected = PGD(steps=8)(tower, pixels, loss, threat_model, sample_generators(0, range(4)))
    assert torch.equal(adversarial, expected)


def test_the_weight_of_the_caption_counts(tower, images):
    pixels = images(4)
    results = [run(dataclasses.replace(ATTACKS[0][0], weight=weight), tower, pixels, PAIRS)[0] for weight in (0, 3)]
    assert not torch.equal(*results)
    with torch.no_grad():
        clean = tower(pixels)
        moved = [unit_divergence(clean, tower(adversarial)) for adversarial in results]
    assert (moved[0] > moved[1]).any()


def cosines(tower, pixels, texts):
    """Cosine of each caption with its image."""
    with torch.no_grad():
        features = nn.functional.normalize(tower(pixels), dim=1)
        captions = nn.functional.normalize(BagEncoder(words)([one for group in texts for one in group]), dim=1)
    image_of = [image for image, group in enumerate(texts) for _ in group]
    return (features[image_of] * captions).sum(dim=1)


@every_threat
def test_sga_lowers_every_cosine_and_more_than_each_half_does(threat_model, tower, images):
    pixels, attack = images(4), SGA(text_attack=WordList(k=60), image_attack=PGD(steps=8))
    adversarial, found = run(attack, tower, pixels, SETS, threat_model)
    clean = cosines(tower, pixels, SETS)
    both = cosines(tower, adversarial, found)
    assert (both < clean).all()
    assert (both < cosines(tower, adversarial, SETS)).all()
    assert (both.mean() < cosines(tower, pixels, found).mean()).all()


def test_sga_takes_its_three_steps(tower, images):
    """Captions against clean images, images against those captions, clean captions against those images."""
    pixels, encode, threat_model = images(4), BagEncoder(words), THREATS[0]
    text_attack, image_attack = Charmer(positions=2, characters="abc"), PGD(steps=2, random_start=False)
    attack = SGA(text_attack=text_attack, image_attack=image_attack, noise=0.0)
    adversarial, found = run(attack, tower, pixels, SETS, threat_model)
    flat = [caption for captions in SETS for caption in captions]
    image_of = torch.tensor([image for image, captions in enumerate(SETS) for _ in captions])

    def away_from(targets):
        targets = nn.functional.normalize(tower(targets).detach(), dim=1)[image_of]
        return lambda features, owner: -nn.functional.cosine_similarity(features, targets[owner], dim=1)

    first = text_attack(encode, flat, score=away_from(pixels))
    with torch.no_grad():
        units = nn.functional.normalize(encode(first), dim=1)
    sums = torch.stack([units[image_of == image].sum(dim=0) for image in range(4)])
    generators = sample_generators(0, range(4))
    views = ScaledViews(tower, attack.scales, 0.0, generators)
    expected = image_attack(views, pixels, SetDissimilarity(sums), threat_model, generators)
    torch.testing.assert_close(adversarial, expected)
    assert [one for captions in found for one in captions] == text_attack(
        encode, flat, score=away_from(adversarial)
    )


def test_captions_of_one_image_may_be_equal_and_differ_for_another(tower, images):
    """A caption is attacked for its own image: equal captions of different images may end differently."""
    pixels = images(4)
    attack = SGA(text_attack=LEAF(), image_attack=PGD(steps=1))
    _, found = run(attack, tower, pixels, [["a red boat"] * 2] * 4)
    assert all(captions[0] == captions[1] for captions in found)
    assert len({captions[0] for captions in found}) > 1


def test_views_are_the_image_at_other_scales():
    """A constant image is the same at every scale; detail is lost at half the size and kept at scale 1."""
    generators = sample_generators(0, range(2))
    constant = torch.full((2, 3, 9, 5), 0.25)
    flat = ScaledViews(lambda pixels: pixels.flatten(1), (0.5, 1.0, 1.5), 0.0, generators)
    assert flat(constant).shape == (2, 4, 135)
    torch.testing.assert_close(flat(constant), torch.full((2, 4, 135), 0.25))
    checkers = (torch.arange(8).view(-1, 1) + torch.arange(8)).remainder(2).float().expand(2, 3, 8, 8)
    views = flat(checkers).unflatten(2, (3, 8, 8))
    assert torch.equal(views[:, 0], checkers)
    torch.testing.assert_close(views[:, 2], checkers)
    assert views[:, 1].std() < 0.1 * checkers.std()


def test_noise_is_drawn_anew_from_each_images_generator():
    pixels = torch.full((2, 3, 32, 32), 0.5)
    views = ScaledViews(lambda batch: batch.flatten(1), (1.0, 1.0), 0.05, sample_generators(0, range(2)))
    first, second = (views(pixels) for _ in range(2))
    assert torch.equal(first[:, 0], pixels.flatten(1))
    noises = torch.cat([first[:, 1:], second[:, 1:]], dim=1).flatten(0, 1) - 0.5
    torch.testing.assert_close(noises.std(dim=1), torch.full((8,), 0.05), rtol=0.1, atol=0)
    assert (torch.corrcoef(noises) - torch.eye(8)).abs().max() < 0.1
    again = ScaledViews(lambda batch: batch.flatten(1), (1.0, 1.0), 0.05, sample_generators(0, [1]))
    assert torch.equal(again(pixels[1:])[0], first[1])
    with pytest.raises(ValueError, match="must work on all images at every step"):
        views(pixels[:1])


@pytest.mark.parametrize(
    ("attack", "texts", "message"),
    [
        (CoAttack(text_attack=LEAF()), SETS, "takes one caption per image, got 7 for 4 images; SGA takes sets"),
        (SGA(text_attack=LEAF()), SETS[:3], "got 4 images, 3 sets of captions and 4 generators"),
        (SGA(text_attack=LEAF()), [*SETS[:3], []], r"at least one, got \[\] for 3"),
        (SGA(text_attack=LEAF()), [*SETS[:3], "two cats"], "a list of captions, at least one, got 'two cats' for 3"),
        (CoAttack(text_attack=LEAF()), [*PAIRS[:3], [" "]], "text at position 3 is blank"),
        (CoAttack(text_attack=LEAF(), image_attack=PGD(stop_when_fooled=True)), PAIRS, "needs a loss with labels"),
    ],
)
def test_bad_input_is_refused(attack, texts, message, tower, images):
    with pytest.raises(ValueError, match=message):
        run(attack, tower, images(4), texts)


def test_a_batch_of_nothing_is_refused(tower, images):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        run(SGA(text_attack=LEAF()), tower, images(4), SETS, batch_size=0)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (CoAttack, {"weight": -1}, "weight must be at least 0, got -1"),
        (SGA, {"scales": [0.5, 0]}, r"scales must be positive, got \(0.5, 0\)"),
        (SGA, {"noise": -0.1}, "noise must be at least 0, got -0.1"),
    ],
)
def test_bad_fields_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


def test_defaults_are_the_papers():
    assert CoAttack().weight == 3.0
    assert SGA().scales == (0.5, 0.75, 1.25, 1.5)
    assert SGA(scales=[0.5]) == SGA(scales=(0.5,))
    for attack in (CoAttack(), SGA()):
        assert attack.text_attack.short_name == "bert_attack"
        assert attack.image_attack == PGD(steps=10)
