"""TIMA: margins and distillation for the image tower, energy and distillation for the text tower."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from originals import learned, loss_and_gradients, same_bits
from reference import class_prompts
from reference import tima as twin
from reference.differences import central_differences
from robust_clip.models import embed_classes
from robust_clip.models.zero_shot import tokenize
from robust_clip.objectives import TIMA, TeCoA, adaptive_problem
from robust_clip.objectives.margins import TextMargin
from robust_clip.objectives.tima import hyperspherical_energy, semantic_divergence

NAMES, TEMPLATES = ["red", "green", "blue"], ["a photo of a {}", "one {}"]
PLAIN = {"mhe": 0, "sc_mhe": 0, "iakd": 0, "takd": 0}


@pytest.fixture
def batch(batch, tiny_model, teacher, tiny_processor):
    """Two templates, and an original whose class embeddings are not the student's."""
    prompts = tokenize(tiny_processor.tokenizer, [t.format(name) for name in NAMES for t in TEMPLATES], "cpu")
    now, before = (embed_classes(m, tiny_processor.tokenizer, NAMES, TEMPLATES) for m in (tiny_model, teacher))
    return replace(
        batch,
        class_embeds=now,
        original_class_embeds=before,
        prompt_ids=prompts["input_ids"],
        prompt_mask=prompts["attention_mask"],
    )


def arrays(*shapes, seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(size=shape) for shape in shapes]


def numpy_of(tensor):
    return tensor.detach().double().numpy()


MARGINS = {
    "default": TextMargin(),
    "asam": TextMargin(kind="asam", offset=0.4),
    "angular": TextMargin(size=0.2, form="angular", offset=0.1),
}


@pytest.mark.parametrize("margin", MARGINS.values(), ids=MARGINS)
def test_every_term_is_its_twin(tiny_model, teacher, batch, margin):
    objective = TIMA(mhe=0.7, sc_mhe=0.6, iakd=0.4, takd=0.3, margin=margin)
    terms = objective(tiny_model, teacher, batch)
    adversarial = numpy_of(tiny_model.encode_image(batch.adversarial))
    clean = numpy_of(teacher.encode_image(batch.pixels))
    embeds, original = numpy_of(batch.class_embeds), numpy_of(batch.original_class_embeds)
    scale, labels = tiny_model.logit_scale.exp().item(), batch.labels.tolist()
    expected = class_prompts.class_logits(clean, original, scale)
    relative = twin.margins(original if margin.kind == "asam" else embeds, margin.kind, margin.offset)
    cosines = class_prompts.class_logits(adversarial, embeds, 1)
    want = {
        "tam": twin.margin_loss(cosines, labels, margin.size * relative, scale, margin.form),
        "takd": 0.3 * twin.distillation(expected, class_prompts.class_logits(adversarial, original, scale)),
        "mhe": 0.7 * twin.energy(embeds),
        "iakd": 0.4 * twin.distillation(expected, class_prompts.class_logits(clean, embeds, scale)),
        "sc_mhe": 0.6 * twin.semantic_divergence(original, embeds, scale),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(want, rel=1e-5, abs=1e-8)
    assert min(want.values()) > 1e-5


def test_weights_and_margin_of_0_give_tecoa_to_the_bit(tiny_model, teacher, batch):
    results = [
        loss_and_gradients(each, tiny_model, teacher, batch) for each in (TIMA(**PLAIN, margin={"size": 0}), TeCoA())
    ]
    assert same_bits(*results)


@pytest.mark.parametrize("stage", ["joint", "text", "image"])
def test_a_stage_trains_its_towers_and_asks_for_no_more(tiny_model, teacher, batch, stage):
    objective = TIMA(stage=stage)
    assert (objective.trains_vision, objective.trains_text) == (stage != "text", stage != "image")
    assert objective.needs_attack == objective.trains_vision
    assert (objective.student_passes, objective.teacher_passes) == (int(stage != "text"), 1)
    if not objective.needs_attack:
        batch.adversarial = torch.full_like(batch.pixels, torch.nan)
    if not objective.trains_text:
        batch.prompt_ids = batch.prompt_mask = None
    result = loss_and_gradients(objective, tiny_model, teacher, batch)
    assert all(value.isfinite().all() for value in result.values())
    names = learned(tiny_model)
    assert any(name.startswith("vision_model.") for name in names) == objective.trains_vision
    assert any(name.startswith("text_model.") for name in names) == objective.trains_text
    assert learned(teacher) == set()


def test_the_stages_have_the_terms_of_the_joint_loss(tiny_model, teacher, batch):
    stages = ("joint", "text", "image")
    joint, text, image = (TIMA(stage=each, sc_mhe=1)(tiny_model, teacher, batch) for each in stages)
    assert (set(text), set(image)) == ({"mhe", "iakd", "sc_mhe"}, {"tam", "takd"})
    assert all(torch.equal(joint[name], term) for name, term in (text | image).items())


def test_each_loss_moves_its_own_tower(tiny_model, teacher, batch):
    tower = {"tam": "vision", "takd": "vision", "mhe": "text", "iakd": "text", "sc_mhe": "text"}
    terms = TIMA(sc_mhe=1)(tiny_model, teacher, batch)
    assert set(terms) == set(tower)
    for name, term in terms.items():
        tiny_model.zero_grad()
        term.backward(retain_graph=True)
        moved = {part.split("_model.")[0] for part in learned(tiny_model) if "_model." in part}
        assert moved == {tower[name]}, name


def test_a_coupled_margin_loss_moves_both_towers(tiny_model, teacher, batch):
    coupled, apart = (TIMA(**PLAIN, margin=TextMargin(couple=couple)) for couple in (True, False))
    assert (coupled.trains_text, apart.trains_text) == (True, False)
    losses = [loss_and_gradients(each, tiny_model, teacher, batch) for each in (coupled, apart)]
    torch.testing.assert_close(losses[0]["loss"], losses[1]["loss"])
    assert losses[0]["text_projection.weight"].abs().max() > 0
    assert "text_projection.weight" not in losses[1]


def test_the_attack_climbs_plain_cross_entropy(tiny_model, teacher, batch):
    ours, tecoa = (each.inner_problem(tiny_model, teacher, batch) for each in (TIMA(), TeCoA()))
    losses = [loss(forward(batch.adversarial)) for forward, loss in (ours, tecoa)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("form", ["additive", "angular"])
def test_the_attack_may_climb_the_loss_with_margins(tiny_model, teacher, batch, form):
    objective = TIMA(**PLAIN, margin={"in_attack": True, "form": form}, temperature=0.1)
    forward, loss = objective.inner_problem(tiny_model, teacher, batch)
    outputs = forward(batch.adversarial)
    torch.testing.assert_close(loss(outputs).mean(), objective(tiny_model, teacher, batch)["tam"])
    kept = torch.tensor([4, 1])
    torch.testing.assert_close(loss[kept](outputs[kept]), loss(outputs)[kept])
    assert torch.equal(loss.fooled(outputs), outputs.argmax(dim=1) != batch.labels)


def test_the_temperature_is_the_checkpoints_unless_given(tiny_model, teacher, batch):
    own = TIMA(margin={"in_attack": True})
    given = replace(own, temperature=1 / tiny_model.logit_scale.exp().item())
    losses = [torch.stack(list(each(tiny_model, teacher, batch).values())) for each in (own, given)]
    torch.testing.assert_close(*losses)
    problems = [each.inner_problem(tiny_model, None, batch) for each in (own, given)]
    torch.testing.assert_close(*(loss(forward(batch.pixels)) for forward, loss in problems))


def test_an_adaptive_attack_climbs_it_image_by_image(tiny_model, teacher, batch):
    objective = TIMA(stage="image")
    forward, loss = adaptive_problem(objective, tiny_model, teacher, batch)
    whole = sum(objective(tiny_model, teacher, batch).values())
    torch.testing.assert_close(loss(forward(batch.adversarial)).mean(), whole)


def test_one_class_has_no_pairs(tiny_model, teacher, batch):
    one = replace(
        batch[torch.tensor([0])],
        class_embeds=batch.class_embeds[:1],
        original_class_embeds=batch.original_class_embeds[:1],
        prompt_ids=batch.prompt_ids[:2],
        prompt_mask=batch.prompt_mask[:2],
    )
    for margin in MARGINS.values():
        objective = TIMA(sc_mhe=1, margin=margin)
        assert all(term.item() == 0 for term in objective(tiny_model, teacher, one).values())
        result = loss_and_gradients(objective, tiny_model, teacher, one)
        assert all(value.isfinite().all() for value in result.values())


def test_energy_falls_when_classes_are_spread():
    embeds = torch.tensor([[1.0, 0.0, 0.1], [1.0, 0.1, 0.0], [1.0, -0.1, 0.0]], requires_grad=True)
    energies = []
    for _ in range(20):
        energies.append(hyperspherical_energy(embeds))
        (gradient,) = torch.autograd.grad(energies[-1], embeds)
        embeds = (embeds - 0.5 * gradient).detach().requires_grad_()
    assert all(later < earlier for earlier, later in zip(energies, energies[1:], strict=False))
    # Three points on a sphere are farthest apart on an equilateral triangle.
    assert energies[-1].item() == pytest.approx(1 / 4, abs=0.02)


def test_semantic_consistency_lets_classes_spread_evenly():
    """Mutual cosines of 0.9 and of 0.2 are one semantics; another order among neighbours is another."""
    before, after = (torch.linalg.cholesky((1 - c) * torch.eye(4) + c) for c in (0.9, 0.2))
    assert semantic_divergence(before, after, 20.0).item() == pytest.approx(0, abs=1e-6)
    assert semantic_divergence(before, after + 0.3 * torch.randn(4, 4), 20.0) > 0.1
    assert semantic_divergence(before[:2], torch.randn(2, 4), 20.0).item() == 0


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_energy_is_its_twin_with_its_gradient(exponent):
    (embeds,) = arrays((5, 6))
    leaf = torch.tensor(embeds, requires_grad=True)
    energy = hyperspherical_energy(leaf, exponent)
    energy.backward()
    assert energy.item() == pytest.approx(twin.energy(embeds, exponent), rel=1e-5)
    numeric = central_differences(lambda x: twin.energy(x, exponent), embeds)
    np.testing.assert_allclose(leaf.grad.numpy(), numeric, rtol=1e-4, atol=1e-6)


def test_semantic_divergence_is_its_twin_with_its_gradient():
    original, embeds = arrays((5, 6), (5, 6))
    leaf = torch.tensor(embeds, requires_grad=True)
    divergence = semantic_divergence(torch.tensor(original), leaf, 4.0)
    divergence.backward()
    assert divergence.item() == pytest.approx(twin.semantic_divergence(original, embeds, 4.0), rel=1e-5)
    numeric = central_differences(lambda x: twin.semantic_divergence(original, x, 4.0), embeds)
    np.testing.assert_allclose(leaf.grad.numpy(), numeric, rtol=1e-4, atol=1e-5)


def test_what_is_needed_of_the_original_follows_from_the_terms():
    assert not TIMA(**PLAIN).needs_teacher
    assert TIMA(**PLAIN | {"sc_mhe": 1}).needs_teacher
    assert TIMA(**PLAIN, margin={"kind": "asam"}).needs_teacher
    assert not TIMA(**PLAIN, margin={"kind": "asam", "size": 0}).needs_teacher
    assert [TIMA(**PLAIN | {name: 1}).teacher_passes for name in PLAIN] == [0, 0, 1, 1]
    assert TIMA(stage="text", iakd=0).teacher_passes == TIMA(stage="image", takd=0).teacher_passes == 0


def test_margins_are_written_as_a_mapping_in_recipes_and_records():
    assert TIMA(margin={"size": 0.1, "kind": "asam"}).margin == TextMargin(size=0.1, kind="asam")
    assert asdict(TIMA())["margin"]["size"] == 0.05


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"takd": -1}, "takd must not be negative, got -1"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"exponent": 0}, "exponent must be above 0"),
        ({"stage": "images"}, "stage must be one of joint, text, image, got 'images'"),
        ({"stage": "text", "mhe": 0, "iakd": 0}, "stage text trains nothing"),
        ({"stage": "image", "margin": {"couple": True}}, "use stage joint, not image"),
        ({"margin": {"kind": "tma"}}, "kind must be one of tam, asam"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        TIMA(**settings)


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ("class_embeds", "TIMA needs class labels"),
        ("original_class_embeds", "class embeddings of the frozen original; this batch has none"),
        ("prompt_ids", "TIMA trains class prompts through the text tower"),
    ],
)
def test_a_batch_without_what_is_needed_is_refused(tiny_model, teacher, batch, missing, complaint):
    with pytest.raises(ValueError, match=complaint):
        TIMA()(tiny_model, teacher, replace(batch, **{missing: None}))


def test_a_teacher_is_asked_for(tiny_model, batch):
    with pytest.raises(ValueError, match="TIMA compares with the frozen original"):
        TIMA()(tiny_model, None, batch)
    assert TIMA(**PLAIN)(tiny_model, None, batch)["tam"].isfinite()
