"""APT: a context learned on adversarial images, under one of three prompts in the attack."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from originals import learned, slope_at_a_pixel
from reference import class_prompts
from reference.differences import central_differences
from reference.prompt_learning import apt
from robust_clip.adaptation import Prompts
from robust_clip.attacks import PGD, sample_generators
from robust_clip.models import embed_classes
from robust_clip.objectives import APT, adaptive_problem
from robust_clip.objectives.apt import PerturbedContext
from robust_clip.threat_model import ThreatModel

NAMES = ["red", "green", "blue"]


@pytest.fixture
def student(tiny_model):
    return Prompts(context=3).apply(tiny_model)


@pytest.fixture
def prompted(student, tiny_processor, batch):
    """The batch as a model with a context sees it."""
    tokenizer = tiny_processor.tokenizer
    prompts = tokenizer([f"{name}." for name in NAMES], padding=True, return_tensors="pt")
    return replace(
        batch,
        class_embeds=embed_classes(student, tokenizer, NAMES, ["{}."]),
        other_class_embeds=embed_classes(student.as_base(), tokenizer, NAMES, ["a photo of a {}"]),
        prompt_ids=prompts["input_ids"],
        prompt_mask=prompts["attention_mask"],
    )


@torch.no_grad()
def twin(student, batch):
    features = student.encode_image(batch.adversarial).double().numpy()
    texts = student.encode_text(batch.prompt_ids, batch.prompt_mask).double()
    embeds = torch.nn.functional.normalize(texts, dim=-1).numpy()
    return apt(class_prompts.class_logits(features, embeds, student.logit_scale.exp().item()), batch.labels.tolist())


def test_the_loss_is_its_twin_and_the_context_learns_alone(student, prompted):
    loss = APT()(student, None, prompted)["apt"]
    assert loss.item() == pytest.approx(twin(student, prompted), rel=1e-5)
    loss.backward()
    assert learned(student) == {"text_model.embeddings.context"}
    assert not APT.trains_vision


def test_the_gradient_is_that_of_the_twin(student, prompted):
    APT()(student, None, prompted)["apt"].backward()
    context = student.text_model.embeddings.context
    student.double()
    before = context.detach().clone()

    def loss_at(values):
        with torch.no_grad():
            context.copy_(torch.from_numpy(values))
        return twin(student, prompted)

    numeric = central_differences(loss_at, before.numpy())
    np.testing.assert_allclose(context.grad.numpy(), numeric, rtol=2e-2, atol=2e-3 * np.abs(numeric).max())


def test_the_prompt_in_the_attack_is_the_one_that_is_named(student, prompted):
    logits = {}
    for name, embeds in (("onfly", prompted.class_embeds), ("constant", prompted.other_class_embeds)):
        forward, loss = APT(attack_prompt=name).inner_problem(student, None, prompted)
        logits[name] = forward(prompted.pixels)
        assert torch.equal(forward.class_embeds, embeds)
        assert torch.equal(loss.labels, prompted.labels)
    assert not torch.allclose(*logits.values(), atol=0.1)
    assert APT(attack_prompt="constant").other_template == "a photo of a {}"
    assert APT().other_template is None


def test_a_perturbed_context_climbs_once_with_each_step_of_the_search(student, prompted):
    """By hand: the gradient of the mean loss by the context, at the images of that step."""
    forward, loss = APT(attack_prompt="perturbed", prompt_step=0.1).inner_problem(student, None, prompted)
    context = student.text_model.embeddings.context
    before = context.detach().clone()
    expected = before.clone()
    for pixels in (prompted.pixels, prompted.adversarial):
        with torch.no_grad():
            context.copy_(expected)
        (gradient,) = torch.autograd.grad(APT()(student, None, replace(prompted, adversarial=pixels))["apt"], context)
        with torch.no_grad():
            context.copy_(before)
        expected = expected + 0.1 * gradient
        with torch.enable_grad():
            forward(pixels)
    torch.testing.assert_close(forward.contexts["text_model.embeddings.context"], expected)
    assert torch.equal(context, before)
    assert not torch.allclose(expected, before, atol=1e-4)


def test_a_small_step_of_the_context_climbs_the_loss(student, prompted):
    forward, loss = APT(attack_prompt="perturbed", prompt_step=1e-4).inner_problem(student, None, prompted)
    with torch.no_grad():
        before = loss(forward(prompted.pixels)).mean()
    for _ in range(3):
        with torch.enable_grad():
            forward(prompted.pixels)
    with torch.no_grad():
        assert loss(forward(prompted.pixels)).mean() > before


def test_a_search_with_a_perturbed_context_leaves_the_model_as_it_was(student, prompted):
    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    found = {}
    for objective in (APT(), APT(attack_prompt="perturbed", prompt_step=1.0)):
        forward, loss = objective.inner_problem(student, None, prompted)
        allowed = ThreatModel("linf", "8/255")
        found[objective] = PGD(steps=3)(forward, prompted.pixels, loss, allowed, sample_generators(0, range(6)))
    assert not torch.equal(*found.values())
    assert all(torch.equal(weight, before[name]) for name, weight in student.state_dict().items())
    assert all(parameter.grad is None for parameter in student.parameters())
    assert {name for name, p in student.named_parameters() if p.requires_grad} == {"text_model.embeddings.context"}


def test_the_gradient_to_the_pixels_is_that_under_the_context_of_the_step(student, prompted):
    forward, loss = APT(attack_prompt="perturbed", prompt_step=1e-9).inner_problem(student, None, prompted)
    plain, _ = APT().inner_problem(student, None, prompted)
    pixels = prompted.pixels.clone().requires_grad_()
    gradients = [torch.autograd.grad(loss(each(pixels)).sum(), pixels)[0] for each in (forward, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_an_attack_can_climb_the_whole_loss(student, prompted):
    one = prompted[torch.tensor([0])]
    forward, loss = adaptive_problem(APT(), student, None, one)
    exact, quotient = slope_at_a_pixel(lambda pixels: loss(forward(pixels)), one.pixels * 0.5 + 0.25)
    assert exact == pytest.approx(quotient, rel=2e-2)


def test_a_context_learns_to_tell_the_classes(student, prompted):
    optimizer = torch.optim.SGD([p for _, p in student.prompts()], lr=0.1, momentum=0.9)
    losses = []
    for _ in range(30):
        loss = APT()(student, None, prompted)["apt"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


def test_mistakes_are_refused(tiny_model, student, prompted, batch):
    with pytest.raises(ValueError, match="attack_prompt must be one of onfly, constant, perturbed, got 'random'"):
        APT(attack_prompt="random")
    for settings in ({"attack_prompt": "perturbed"}, {"prompt_step": 0.1}):
        with pytest.raises(ValueError, match="prompt_step goes with attack_prompt perturbed"):
            APT(**settings)
    with pytest.raises(ValueError, match="prompt_step must be above 0"):
        APT(attack_prompt="perturbed", prompt_step=0)
    perturbed = APT(attack_prompt="perturbed", prompt_step=0.1)
    with pytest.raises(ValueError, match="needs a learned context"):
        perturbed.inner_problem(tiny_model, None, batch)
    without = replace(prompted, other_class_embeds=None)
    with pytest.raises(ValueError, match="needs class embeddings of 'a photo of a {}'"):
        APT(attack_prompt="constant").inner_problem(student, None, without)
    with pytest.raises(ValueError, match="APT trains class prompts"):
        APT()(student, None, replace(prompted, prompt_ids=None))
    with pytest.raises(ValueError, match="over the whole batch at once"), torch.enable_grad():
        PerturbedContext(student, prompted, 0.1)(prompted.pixels[:2])
