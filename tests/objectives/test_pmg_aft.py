"""PMG-AFT: TeCoA, drawn to the original's predictions and to the student's own on clean images."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from originals import another, learned, loss_and_gradients, same_bits, slope_at_a_pixel, twin_logits
from reference import class_prompts, guided_by_original
from reference.differences import central_differences
from robust_clip import RobustCLIPModel
from robust_clip.objectives import TeCoA, adaptive_problem
from robust_clip.objectives.functional import kl_divergence
from robust_clip.objectives.pmg_aft import PMGAFT


@pytest.mark.parametrize("temperature", [None, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("direction", ["reference_first", "adversarial_first"])
def test_every_term_is_its_twin(tiny_model, teacher, batch, direction, reduction, temperature):
    objective = PMGAFT(0.7, 0.3, direction=direction, reduction=reduction, temperature=temperature)
    terms = objective(tiny_model, teacher, batch)
    scale = 1 / temperature if temperature else tiny_model.logit_scale.exp().item()
    adversarial = twin_logits(tiny_model, batch.adversarial, batch, scale)
    original = twin_logits(teacher, batch.adversarial, batch, scale)
    clean = twin_logits(tiny_model, batch.pixels, batch, scale)
    form = {"direction": direction, "reduction": reduction}
    twin = {
        "cross_entropy": class_prompts.cross_entropy(adversarial, batch.labels),
        "general": 0.7 * guided_by_original.pmg_divergence(original, adversarial, **form),
        "clean": 0.3 * guided_by_original.pmg_divergence(clean, adversarial, **form),
    }
    # Divergences of cosines are near 0, and differences of logits in fp32 keep them to 1e-7.
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(twin, rel=1e-5, abs=3e-7)
    assert min(twin.values()) > 0


def test_the_two_directions_differ(tiny_model, teacher, batch):
    terms = [PMGAFT(direction=each)(tiny_model, teacher, batch) for each in ("reference_first", "adversarial_first")]
    assert abs(terms[0]["general"] - terms[1]["general"]) > 1e-4


def test_weights_of_0_give_tecoa_to_the_bit(tiny_model, teacher, batch):
    results = [loss_and_gradients(each, tiny_model, teacher, batch) for each in (PMGAFT(0, 0), TeCoA())]
    assert same_bits(*results)


def test_an_original_that_is_the_student_and_no_attack_leave_tecoa(tiny_model, batch):
    still = replace(batch, adversarial=batch.pixels)
    terms = PMGAFT()(tiny_model, another(tiny_model, size=0), still)
    assert terms["general"].item() == terms["clean"].item() == 0


def test_one_image_and_one_class(tiny_model, teacher, batch):
    one = replace(batch[torch.tensor([0])], class_embeds=batch.class_embeds[:1], labels=torch.tensor([0]))
    assert all(term.item() == 0 for term in PMGAFT()(tiny_model, teacher, one).values())


def test_the_original_is_never_taught_and_the_clean_prediction_is(tiny_model, teacher, batch):
    batch.class_embeds.requires_grad_()
    loss_and_gradients(PMGAFT(), tiny_model, teacher, batch)
    assert learned(teacher) == set()
    assert all(name.startswith(("vision_model.", "visual_projection.", "logit_scale")) for name in learned(tiny_model))
    pixels = batch.pixels.clone().requires_grad_()
    PMGAFT(alpha=0)(tiny_model, teacher, replace(batch, pixels=pixels))["clean"].backward()
    assert pixels.grad.abs().max() > 0


@pytest.mark.parametrize("side", [0, 1])
def test_gradient_of_the_divergence_by_either_side(side):
    pair = 3 * np.random.default_rng(0).normal(size=(2, 4, 3))
    leaves = [torch.tensor(each, requires_grad=True) for each in pair]
    kl_divergence(*leaves).mean().backward()

    def twin(moved):
        both = [moved if place == side else pair[place] for place in (0, 1)]
        return guided_by_original.pmg_divergence(*both, "reference_first", "mean")

    numeric = central_differences(twin, pair[side])
    np.testing.assert_allclose(leaves[side].grad.numpy(), numeric, rtol=1e-4, atol=1e-5)


def test_the_attack_climbs_cross_entropy_at_the_temperature_of_the_loss(tiny_model, teacher, batch):
    for objective in (PMGAFT(), PMGAFT.authors()):
        forward, loss = objective.inner_problem(tiny_model, teacher, batch)
        expected = objective(tiny_model, teacher, batch)["cross_entropy"]
        torch.testing.assert_close(loss(forward(batch.adversarial)).mean(), expected)
    assert forward(batch.adversarial).abs().max() <= 1


def test_an_adaptive_attack_sees_the_original_move_with_the_image(tiny_model, teacher, batch):
    """The gradient of the whole loss by one pixel, against the difference of the loss."""
    one = batch[torch.tensor([3])]
    _, loss = adaptive_problem(PMGAFT(alpha=100), tiny_model, teacher, one)
    gradient, difference = slope_at_a_pixel(loss, one.adversarial)
    assert gradient == pytest.approx(difference, rel=1e-2)


def test_the_authors_pixel_normalisation_is_the_models(tiny_checkpoint):
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    model = RobustCLIPModel.from_pretrained(tiny_checkpoint, **imagenet)
    at_the_mean = torch.tensor(imagenet["image_mean"]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    torch.testing.assert_close(model.preprocess(at_the_mean), torch.zeros(1, 3, 16, 16))


def test_mistakes_are_refused(tiny_model, teacher, batch):
    for wrong, message in (
        ({"alpha": -1}, "alpha must not be negative"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"direction": "forward"}, "direction must be one of reference_first, adversarial_first, got 'forward'"),
        ({"reduction": "none"}, "reduction must be one of mean, sum"),
    ):
        with pytest.raises(ValueError, match=message):
            PMGAFT(**wrong)
    with pytest.raises(ValueError, match="PMG-AFT compares with the frozen original"):
        PMGAFT()(tiny_model, None, batch)
    for what in (PMGAFT(), PMGAFT().inner_problem):
        with pytest.raises(ValueError, match="PMG-AFT needs class labels"):
            what(tiny_model, teacher, replace(batch, class_embeds=None))
