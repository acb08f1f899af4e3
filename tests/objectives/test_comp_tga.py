"""Comp-TGA: attention of the class, less that of a sentence that denies it."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from originals import learned, loss_and_gradients, mean_of_single_images, same_bits
from reference import attention_maps
from reference.differences import central_differences
from robust_clip import PGD, AdversarialTrainer, AdversarialTrainingArguments, RobustCLIPModel, ThreatModel
from robust_clip.models import embed_classes
from robust_clip.objectives import TeCoA
from robust_clip.objectives.comp_tga import CompTGA
from robust_clip.objectives.tga_zsr import TGAZSR, attention_map
from tests.conftest import CLASS_NAMES, coloured_rows


@pytest.fixture
def batch(batch, teacher, tiny_processor):
    other = [CompTGA().other_template]
    return replace(batch, other_class_embeds=embed_classes(teacher, tiny_processor.tokenizer, CLASS_NAMES, other))


@torch.no_grad()
def twin_maps(objective, model, pixels, batch):
    """Upsampled maps of both sentences by the twin, joined."""
    tokens, labels = model.encode_image_tokens(pixels).double().numpy(), batch.labels.numpy()
    sides = []
    for embeds in (batch.class_embeds, batch.other_class_embeds):
        pairs = zip(tokens, embeds.double().numpy()[labels], strict=True)
        maps = [attention_maps.attention_map(each, text, objective.token_norm) for each, text in pairs]
        sides.append([attention_maps.upsample(each, 16) for each in maps] if objective.upsample else maps)
    return [named * (1 - denied) for named, denied in zip(*sides, strict=True)]


FORMS = [{}, {"token_norm": "across_tokens"}, {"upsample": False, "distance": "l1"}, {"distance": "cosine"}]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_term_is_its_twin(tiny_model, teacher, batch, form):
    objective = CompTGA(0.7, 0.3, **form)
    terms = objective(tiny_model, teacher, batch)
    reference = twin_maps(objective, teacher, batch.pixels, batch)

    def far(pixels):
        pairs = zip(twin_maps(objective, tiny_model, pixels, batch), reference, strict=True)
        return np.mean([attention_maps.distance(*pair, objective.distance) for pair in pairs])

    # Bringing a map to [0, 1] divides by its small range, and so magnifies the rounding of fp32.
    for bounds in ({"rel": 1e-4}, {"abs": 1e-5, "rel": 1e-5}):
        assert terms["refinement"].item() == pytest.approx(0.7 * far(batch.adversarial), **bounds)
        assert terms["constraint"].item() == pytest.approx(0.3 * far(batch.pixels), **bounds)
    torch.testing.assert_close(terms["cross_entropy"], TeCoA()(tiny_model, None, batch)["tecoa"])


def test_a_sentence_that_looks_nowhere_leaves_tga_zsr(tiny_model, teacher, batch):
    blind = replace(batch, other_class_embeds=torch.zeros_like(batch.class_embeds))
    results = [loss_and_gradients(each(0.1, 0.07), tiny_model, teacher, blind) for each in (CompTGA, TGAZSR)]
    assert same_bits(*results)
    seeing = loss_and_gradients(CompTGA(), tiny_model, teacher, batch)
    assert abs(seeing["loss"] - results[0]["loss"]) > 1e-3


def test_the_same_sentence_twice_leaves_nothing_at_the_peak(tiny_model, teacher, batch):
    """`A (1 - A)`, which is 0 where A is 0 or 1."""
    same = replace(batch, other_class_embeds=batch.class_embeds)
    objective = CompTGA(upsample=False)
    tokens = tiny_model.encode_image_tokens(batch.pixels)
    once = attention_map(tokens, batch.class_embeds[batch.labels])
    torch.testing.assert_close(objective._attention(tiny_model, tokens, same), once * (1 - once))


def test_gradient_through_both_maps(tiny_model, batch):
    random = np.random.default_rng(1)
    tokens, texts = random.normal(size=(5, 3)), random.normal(size=(2, 3))
    one = replace(
        batch[torch.tensor([0])],
        class_embeds=torch.tensor(texts[:1]),
        other_class_embeds=torch.tensor(texts[1:]),
        labels=torch.tensor([0]),
    )
    weights = random.normal(size=4)
    leaf = torch.tensor(tokens, requires_grad=True)
    attention = CompTGA(upsample=False)._attention(tiny_model, leaf[None], one)
    (attention[0] * torch.tensor(weights)).sum().backward()

    def twin(moved):
        named, denied = (attention_maps.attention_map(moved, text, "feature") for text in texts)
        return (named * (1 - denied) * weights).sum()

    np.testing.assert_allclose(leaf.grad.numpy(), central_differences(twin, tokens), rtol=1e-3, atol=1e-5)


def test_weights_of_0_give_tecoa_to_the_bit(tiny_model, teacher, batch):
    bare = replace(batch, other_class_embeds=None)
    results = [loss_and_gradients(each, tiny_model, teacher, bare) for each in (CompTGA(0, 0), TeCoA())]
    assert same_bits(*results)


def test_the_original_and_the_sentences_are_never_taught(tiny_model, teacher, batch):
    batch.other_class_embeds.requires_grad_()
    batch.class_embeds.requires_grad_()
    loss_and_gradients(CompTGA(), tiny_model, teacher, batch)
    assert learned(teacher) == set()
    assert all(name.startswith(("vision_model.", "visual_projection.", "logit_scale")) for name in learned(tiny_model))


def test_one_image_alone_has_the_loss_that_it_has_in_a_batch(tiny_model, teacher, batch):
    alone = mean_of_single_images(CompTGA(), tiny_model, teacher, batch)
    torch.testing.assert_close(alone, CompTGA()(tiny_model, teacher, batch), rtol=1e-4, atol=1e-6)


def test_the_trainer_embeds_the_other_sentence(tmp_path, tiny_checkpoint, tiny_processor):
    trainer = AdversarialTrainer(
        RobustCLIPModel.from_pretrained(tiny_checkpoint),
        AdversarialTrainingArguments(output_dir=str(tmp_path), max_steps=2, report_to="none", save_strategy="no"),
        objective=CompTGA(other_template="Nowhere is a {}"),
        attack=PGD(steps=1, step_size="4/255"),
        threat_model=ThreatModel("linf", "4/255"),
        train_dataset=coloured_rows(24),
        processing_class=tiny_processor,
    )
    before = trainer.model.visual_projection.weight.clone()
    trainer.train()
    assert not before.equal(trainer.model.visual_projection.weight)
    assert trainer.record["objective other_template"] == "Nowhere is a {}"


def test_the_sentence_is_a_value_of_the_objective():
    assert asdict(CompTGA())["other_template"] == "This is not a photo of a {}"
    assert CompTGA() != CompTGA(other_template="No {}")
    assert TGAZSR.other_template is None


def test_mistakes_are_refused(tiny_model, teacher, batch):
    with pytest.raises(ValueError, match=r"other_template needs a \{\} where the class name goes, got 'nothing'"):
        CompTGA(other_template="nothing")
    with pytest.raises(ValueError, match="alpha must not be negative"):
        CompTGA(alpha=-1)
    with pytest.raises(ValueError, match="distance must be one of"):
        CompTGA(distance="kl")
    with pytest.raises(ValueError, match="CompTGA needs class embeddings of its other_template"):
        CompTGA()(tiny_model, teacher, replace(batch, other_class_embeds=None))
    with pytest.raises(ValueError, match="CompTGA compares with the frozen original"):
        CompTGA()(tiny_model, None, batch)
    with pytest.raises(ValueError, match="CompTGA needs class labels"):
        CompTGA()(tiny_model, teacher, replace(batch, class_embeds=None))
