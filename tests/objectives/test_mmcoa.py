"""MMCoA: contrast of adversarial images with clean texts, and of clean images with adversarial texts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reference.class_prompts import class_logits
from reference.differences import central_differences
from reference.pair_contrast import pair_contrast as twin
from robust_clip import PGD, ThreatModel
from robust_clip.attacks import sample_generators
from robust_clip.objectives import MMCoA
from robust_clip.objectives.mmcoa import pair_contrast

WAYS = ("soft_targets", "mask", "authors")
GROUPS = torch.tensor([0, 1, 0, 2, 1, 0])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("groups", [GROUPS, torch.arange(6), torch.zeros(6, dtype=torch.long)], ids=str)
def test_contrast_is_its_twin(way, groups):
    logits = 5 * torch.randn(6, 6)
    expected = twin(logits.double().numpy(), groups.tolist(), way)
    assert pair_contrast(logits, groups, way).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_gradient_is_that_of_differences(way):
    logits = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    pair_contrast(logits, GROUPS, way).backward()
    expected = central_differences(lambda point: twin(point, GROUPS.tolist(), way), logits.detach().numpy())
    assert np.allclose(logits.grad, expected, atol=1e-5)


def test_without_duplicates_all_ways_are_one():
    logits = torch.randn(5, 5)
    values = [pair_contrast(logits, torch.arange(5), way).item() for way in WAYS]
    assert values == pytest.approx([values[0]] * 3, abs=1e-6)


def test_equal_texts_are_told_apart_by_the_authors_alone():
    """Logits as equal texts have them: equal columns. To choose among them is to choose the text."""
    texts, rows = GROUPS, torch.arange(6)
    logits = torch.randn(6, 3)[:, texts]
    distinct = torch.nn.functional.cross_entropy(logits[:, [0, 1, 3]], texts)
    backwards = torch.nn.functional.cross_entropy(logits.T, rows)
    values = {way: pair_contrast(logits, texts, way) for way in WAYS}
    torch.testing.assert_close(values["soft_targets"], distinct + backwards)
    torch.testing.assert_close(values["authors"], torch.nn.functional.cross_entropy(logits, rows) + backwards)
    assert max(values["mask"], values["soft_targets"]) < values["authors"]


def test_mmcoa_is_its_twin(tiny_model, pairs):
    terms = MMCoA(image_weight=0.3, text_weight=0.7)(tiny_model, None, pairs)
    scale = tiny_model.logit_scale.exp().item()

    def expected(pixels, ids, mask):
        images = tiny_model.encode_image(pixels).detach().double().numpy()
        texts = tiny_model.encode_text(ids, mask).detach().double().numpy()[pairs.text_index.numpy()]
        return twin(class_logits(images, texts, scale), pairs.text_index.tolist(), "soft_targets")

    image = 0.3 * expected(pairs.adversarial, pairs.input_ids, pairs.attention_mask)
    text = 0.7 * expected(pairs.pixels, pairs.attacked_ids, pairs.attacked_mask)
    assert terms["image"].item() == pytest.approx(image, rel=1e-5)
    assert terms["text"].item() == pytest.approx(text, rel=1e-5)


def test_each_domain_has_its_own_term_and_needs(tiny_model, pairs):
    both, image, text = (MMCoA(domain=domain) for domain in ("both", "image", "text"))
    whole = both(tiny_model, None, pairs)
    assert image(tiny_model, None, replace(pairs, attacked_ids=None)).keys() == {"image"}
    assert torch.equal(text(tiny_model, None, pairs)["text"], whole["text"])
    assert [(o.needs_attack, o.needs_text_attack, o.trains_vision) for o in (both, image, text)] == [
        (True, True, True),
        (True, False, True),
        (False, True, False),
    ]


def test_both_towers_and_the_temperature_get_a_gradient(tiny_model, pairs):
    sum(MMCoA()(tiny_model, None, pairs).values()).backward()
    for part in (tiny_model.visual_projection, tiny_model.text_projection):
        assert part.weight.grad.abs().max() > 0
    assert tiny_model.logit_scale.grad != 0


def test_the_update_has_no_gradient_of_the_attack(tiny_model, pairs):
    """The authors' loop calls backward on every step of the attack and clears nothing before the update."""
    step, weight = 1 / 255, tiny_model.visual_projection.weight
    forward, loss = MMCoA().inner_problem(tiny_model, None, pairs)

    def update(images):
        sum(MMCoA()(tiny_model, None, replace(pairs, adversarial=images)).values()).backward()
        return weight.grad.clone()

    tiny_model.zero_grad()
    iterates, images = [], pairs.pixels
    for _ in range(3):
        iterates.append(images.clone().requires_grad_())
        loss(forward(iterates[-1])).mean().backward()
        images = (images + step * iterates[-1].grad.sign()).clamp(0, 1)
    theirs = update(images)

    tiny_model.zero_grad()
    attack, generators = PGD(steps=3, step_size=step, random_start=False), sample_generators(0, range(6))
    found = attack(forward, pairs.pixels, loss, ThreatModel("linf", 8 / 255), generators)
    torch.testing.assert_close(found, images)
    ours = update(found)

    leaked = [torch.autograd.grad(loss(forward(each)).mean(), weight)[0] for each in iterates]
    torch.testing.assert_close(theirs, ours + sum(leaked))
    assert (theirs - ours).abs().max() > 1e-3 * ours.abs().max()
    tiny_model.zero_grad()
    assert torch.equal(update(found), ours)


def test_attack_on_images_climbs_class_prompts_where_there_are_classes(tiny_model, pairs):
    forward, _ = MMCoA().inner_problem(tiny_model, None, pairs)
    assert torch.equal(forward.class_embeds, pairs.class_embeds)
    forward, loss = MMCoA().inner_problem(tiny_model, None, replace(pairs, class_embeds=None))
    texts = tiny_model.encode_text(pairs.input_ids, pairs.attention_mask)
    assert torch.allclose(forward.class_embeds, torch.nn.functional.normalize(texts, dim=-1), atol=1e-6)
    assert torch.equal(loss.labels, pairs.text_index)


def test_a_side_of_weight_0_is_left_out_with_its_attack(tiny_model, pairs):
    both, image = MMCoA(text_weight=0), MMCoA(domain="image")
    found = both(tiny_model, None, replace(pairs, attacked_ids=None))
    assert found.keys() == {"image"}
    assert torch.equal(found["image"], image(tiny_model, None, pairs)["image"])
    assert not both.needs_text_attack
    assert both.student_passes == both.text_passes == 1
    text = MMCoA(image_weight=0)
    assert not text.needs_attack
    assert text.trains_vision
    assert text(tiny_model, None, replace(pairs, adversarial=None)).keys() == {"text"}


def test_the_text_side_alone_leaves_the_temperature(tiny_model, pairs):
    assert not MMCoA(domain="text").trains_logit_scale
    assert MMCoA(domain="image").trains_logit_scale


def test_what_is_missing_or_wrong_is_refused(tiny_model, pairs):
    with pytest.raises(ValueError, match="needs captions"):
        MMCoA()(tiny_model, None, replace(pairs, input_ids=None))
    with pytest.raises(ValueError, match="needs class prompts or captions"):
        MMCoA().inner_problem(tiny_model, None, replace(pairs, input_ids=None, class_embeds=None))
    with pytest.raises(ValueError, match="give a text attack"):
        MMCoA()(tiny_model, None, replace(pairs, attacked_ids=None))
    for wrong in ({"image_weight": -1}, {"text_weight": float("nan")}):
        with pytest.raises(ValueError, match="must not be negative"):
            MMCoA(**wrong)
    for wrong in ({"image_weight": 0, "text_weight": 0}, {"domain": "text", "text_weight": 0}):
        with pytest.raises(ValueError, match="nothing to learn from"):
            MMCoA(**wrong)
    for wrong in ({"domain": "audio"}, {"duplicates": "drop"}):
        with pytest.raises(ValueError, match="must be one of"):
            MMCoA(**wrong)
