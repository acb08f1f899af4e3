"""FARE: adversarial images keep the original's features of the clean ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from originals import another, learned, loss_and_gradients
from reference import guided_by_original
from reference.differences import central_differences
from robust_clip import PGD, AdversarialTrainer, AdversarialTrainingArguments, RobustCLIPModel, ThreatModel
from robust_clip.attacks import sample_generators
from robust_clip.objectives.fare import FARE
from robust_clip.objectives.functional import squared_distance
from tests.conftest import coloured_rows

EVERY_FORM = pytest.mark.parametrize(
    ("clean_weight", "trades"), [(0.0, False), (0.3, False), (0.0, True), (0.3, True), (1.0, False)]
)


@EVERY_FORM
def test_fare_is_its_twin(tiny_model, teacher, batch, clean_weight, trades):
    terms = FARE(clean_weight, trades)(tiny_model, teacher, batch)
    adversarial, clean, original = (
        model.encode_image(pixels).detach().double().numpy()
        for model, pixels in ((tiny_model, batch.adversarial), (tiny_model, batch.pixels), (teacher, batch.pixels))
    )
    twin = guided_by_original.fare(adversarial, clean, original, clean_weight, trades)
    assert sum(terms.values()).item() == pytest.approx(twin, rel=1e-5)
    assert set(terms) == {"adversarial"} if clean_weight == 0 else {"clean"} <= set(terms)
    assert twin > 0.01


def test_gradient_of_the_squared_distance():
    features, reference = np.random.default_rng(0).normal(size=(2, 4, 5))
    leaf = torch.tensor(features, requires_grad=True)
    squared_distance(leaf, torch.tensor(reference)).mean().backward()
    numeric = central_differences(lambda x: guided_by_original.fare(x, x, reference, 0.0, False), features)
    np.testing.assert_allclose(leaf.grad.numpy(), numeric, rtol=1e-5, atol=1e-6)


@EVERY_FORM
def test_it_is_0_without_attack_while_the_student_is_the_original(tiny_model, batch, clean_weight, trades):
    still = replace(batch, adversarial=batch.pixels)
    result = loss_and_gradients(FARE(clean_weight, trades), tiny_model, another(tiny_model, size=0), still)
    assert result["loss"].item() == 0
    assert all(not value.any() for value in result.values())


def test_features_are_not_normalised(tiny_model, teacher, batch):
    """Twice as long features of both are four times as far apart."""
    near = FARE()(tiny_model, teacher, batch)["adversarial"]
    for model in (tiny_model, teacher):
        model.visual_projection.weight.data *= 2
    far = FARE()(tiny_model, teacher, replace(batch, teacher_features=None))["adversarial"]
    torch.testing.assert_close(far, 4 * near)


def test_the_attack_climbs_the_distance_to_the_originals_clean_features(tiny_model, teacher, batch):
    forward, loss = FARE(trades=True).inner_problem(tiny_model, teacher, batch)
    losses = loss(forward(batch.adversarial))
    torch.testing.assert_close(losses.mean(), FARE()(tiny_model, teacher, batch)["adversarial"])
    assert loss.fooled(forward(batch.adversarial)) is None
    allowed, generators = ThreatModel("linf", "8/255"), sample_generators(0, range(6))
    found = PGD(steps=5)(forward, batch.pixels, loss, allowed, generators)
    assert (loss(forward(found)) > loss(forward(batch.pixels))).all()


def test_an_attack_puts_the_student_into_eval_mode(tiny_model, teacher, batch):
    forward, loss = FARE().inner_problem(tiny_model.train(), teacher, batch)
    seen = []
    tiny_model.visual_projection.register_forward_hook(lambda *_: seen.append(tiny_model.training))
    PGD(steps=1)(forward, batch.pixels, loss, ThreatModel("linf", "1/255"), sample_generators(0, range(6)))
    assert seen
    assert not any(seen)


@EVERY_FORM
def test_the_original_is_asked_once_for_attack_and_loss_and_never_taught(
    tiny_model, teacher, batch, clean_weight, trades
):
    objective, asked = FARE(clean_weight, trades), []
    teacher.visual_projection.register_forward_hook(lambda *_: asked.append(1))
    objective.inner_problem(tiny_model, teacher, batch)
    loss_and_gradients(objective, tiny_model, teacher, batch)
    assert len(asked) == 1
    assert learned(teacher) == set()
    assert all(name.startswith(("vision_model.", "visual_projection.")) for name in learned(tiny_model))


@pytest.mark.parametrize("clean_weight", [0.0, 0.3])
def test_a_target_of_trades_is_a_constant(tiny_model, teacher, batch, clean_weight):
    """Each gradient is that of two runs of FARE, one of which has the student's clean features for the original's."""
    drawn = loss_and_gradients(FARE(clean_weight, trades=True), tiny_model, teacher, batch)
    own = replace(batch, teacher_features=tiny_model.encode_image(batch.pixels).detach())
    adversarial = loss_and_gradients(FARE(), tiny_model, teacher, own)
    clean = loss_and_gradients(FARE(1.0), tiny_model, teacher, batch)
    for name, value in drawn.items():
        expected = clean_weight * clean[name] + (1 - clean_weight) * adversarial[name]
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


@EVERY_FORM
def test_passes_are_counted_as_they_are_taken(tiny_model, teacher, batch, clean_weight, trades):
    objective, passes = FARE(clean_weight, trades), []
    tiny_model.visual_projection.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    teacher.visual_projection.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    objective(tiny_model, teacher, batch)
    assert (passes.count(True), passes.count(False)) == (objective.student_passes, objective.teacher_passes)


def test_one_image_without_label_or_class_is_enough(tiny_model, teacher, batch):
    whole = FARE()(tiny_model, teacher, batch)["adversarial"]
    bare = replace(batch, class_embeds=None, labels=torch.full((6,), -1))
    alone = [FARE()(tiny_model, teacher, bare[torch.tensor([row])])["adversarial"] for row in range(6)]
    torch.testing.assert_close(torch.stack(alone).mean(), whole)


def test_images_without_labels_train(tmp_path, tiny_checkpoint, tiny_processor):
    """Their captions are not looked at."""
    images = coloured_rows(24).remove_columns("label").add_column("text", [f"number {row}" for row in range(24)])
    trainer = AdversarialTrainer(
        RobustCLIPModel.from_pretrained(tiny_checkpoint),
        AdversarialTrainingArguments(output_dir=str(tmp_path), max_steps=2, report_to="none", save_strategy="no"),
        objective=FARE(),
        attack=PGD(steps=2, step_size="4/255"),
        threat_model=ThreatModel("linf", "4/255"),
        train_dataset=images,
        processing_class=tiny_processor,
    )
    before = trainer.model.visual_projection.weight.clone()
    trainer.train()
    assert not before.equal(trainer.model.visual_projection.weight)


def test_mistakes_are_refused(tiny_model, batch):
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="clean_weight is the clean term's share, from 0 to 1"):
            FARE(clean_weight=wrong)
    with pytest.raises(ValueError, match="FARE compares with the frozen original"):
        FARE()(tiny_model, None, batch)
    with pytest.raises(ValueError, match="FARE compares with the frozen original"):
        FARE().inner_problem(tiny_model, None, batch)
