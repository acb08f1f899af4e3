"""FAP: right on clean images, of the same opinion on adversarial ones, prompts in both towers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from originals import learned, loss_and_gradients, mean_of_single_images
from reference import class_prompts
from reference.differences import central_differences
from reference.prompt_learning import fap
from robust_clip.adaptation import Prompts
from robust_clip.models import embed_classes
from robust_clip.objectives import FAP

NAMES = ["red", "green", "blue"]


@pytest.fixture
def student(tiny_model):
    return Prompts(tokens=2, context=2, depth=2).apply(tiny_model)


@pytest.fixture
def prompted(student, tiny_processor, batch):
    prompts = tiny_processor.tokenizer([f"{name}." for name in NAMES], padding=True, return_tensors="pt")
    return replace(
        batch,
        class_embeds=embed_classes(student, tiny_processor.tokenizer, NAMES, ["{}."]),
        prompt_ids=prompts["input_ids"],
        prompt_mask=prompts["attention_mask"],
    )


@torch.no_grad()
def twin(student, batch, weight):
    features = [student.encode_image(pixels).double().numpy() for pixels in (batch.pixels, batch.adversarial)]
    texts = student.encode_text(batch.prompt_ids, batch.prompt_mask).double()
    embeds, scale = torch.nn.functional.normalize(texts, dim=-1).numpy(), student.logit_scale.exp().item()
    logits = [class_prompts.class_logits(each, embeds, scale) for each in features]
    return fap(*logits, *features, batch.labels.tolist(), weight)


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_every_term_is_its_twin(student, prompted, weight):
    terms = FAP(weight=weight)(student, None, prompted)
    want = twin(student, prompted, weight)
    found = {name: term.item() for name, term in terms.items()}
    assert found == pytest.approx(want, rel=1e-4)
    assert found == pytest.approx(want, abs=1e-5, rel=1e-5)
    assert want["divergence"] > 1e-4


@pytest.mark.parametrize("name", ["vision_model.embeddings.tokens", "text_model.encoder.prompts"])
def test_all_of_the_loss_has_a_gradient_to_both_predictions_and_to_the_cosine(student, prompted, name):
    student.double()
    prompted = replace(prompted, pixels=prompted.pixels.double(), adversarial=prompted.adversarial.double())
    sum(FAP(weight=5.0)(student, None, prompted).values()).backward()
    prompt = student.get_parameter(name)

    def loss_at(values):
        with torch.no_grad():
            prompt.copy_(torch.from_numpy(values))
        return sum(twin(student, prompted, 5.0).values())

    numeric = central_differences(loss_at, prompt.detach().clone().numpy())
    np.testing.assert_allclose(prompt.grad.numpy(), numeric, rtol=1e-2, atol=1e-3 * np.abs(numeric).max())


def test_prompts_of_both_towers_learn_and_nothing_else(student, prompted):
    sum(FAP()(student, None, prompted).values()).backward()
    assert learned(student) == {name for name, _ in student.prompts()}
    assert (FAP.trains_vision, FAP.trains_text) == (True, True)


def test_a_weight_of_0_is_clean_prompt_tuning_and_needs_no_attack(student, prompted):
    off = FAP(weight=0)
    terms = off(student, None, prompted)
    assert terms.keys() == {"clean"}
    assert (off.needs_attack, off.student_passes, off.teacher_passes) == (False, 1, 0)
    assert (FAP().needs_attack, FAP().student_passes, FAP().teacher_passes) == (True, 2, 0)
    still = replace(prompted, adversarial=prompted.pixels)
    with_it, without = (loss_and_gradients(FAP(weight=w), student, None, still) for w in (4.0, 0.0))
    for name, value in without.items():
        torch.testing.assert_close(with_it[name], value, rtol=1e-4, atol=1e-6)


def test_single_images_add_up(student, prompted):
    alone = mean_of_single_images(FAP(), student, None, prompted)
    for name, term in FAP()(student, None, prompted).items():
        torch.testing.assert_close(alone[name], term, rtol=1e-4, atol=1e-6)


def test_the_attack_climbs_what_is_named(student, prompted):
    forward, loss = FAP().inner_problem(student, None, prompted)
    expected = torch.nn.functional.cross_entropy(forward(prompted.pixels), prompted.labels, reduction="none")
    torch.testing.assert_close(loss(forward(prompted.pixels)), expected)
    divergence = FAP(attack_climbs="divergence")
    forward, loss = divergence.inner_problem(student, None, prompted)
    assert loss(forward(prompted.pixels)).abs().max() < 1e-5
    assert loss(forward(prompted.adversarial)).min() > 1e-6
    assert divergence.needs_random_start
    assert not FAP().needs_random_start
    assert not FAP(weight=0, attack_climbs="divergence").needs_random_start


def test_mistakes_are_refused(student, prompted):
    with pytest.raises(ValueError, match="weight must not be negative, got -1"):
        FAP(weight=-1)
    with pytest.raises(ValueError, match="attack_climbs must be one of cross_entropy, divergence, got 'kl'"):
        FAP(attack_climbs="kl")
    with pytest.raises(ValueError, match="FAP trains class prompts"):
        FAP()(student, None, replace(prompted, prompt_ids=None))
    with pytest.raises(ValueError, match="FAP needs class labels"):
        FAP()(student, None, replace(prompted, class_embeds=None))
