"""R-TPT: its parts against numpy twins, its degenerate forms, gradients, passes by count; and its views."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

from reference.test_time import first_adamw_step, pointwise_entropy, vote
from robust_clip.models import RTPT, Draws, ZeroShotClassifier, embed_classes, image_views
from robust_clip.models.r_tpt import entropy, reliabilities

NAMES = ["red", "green", "blue"]
FEW = {"views": 7, "neighbours": 3, "share": 0.4}


@pytest.fixture
def classifier(tiny_model, tiny_processor):
    embeds = embed_classes(tiny_model, tiny_processor.tokenizer, NAMES, ["a photo of a {}."])
    return ZeroShotClassifier(tiny_model, embeds, batch_multiple=8)


@pytest.fixture
def behind(classifier, tiny_processor):
    """`behind(steps=2)`: the classifier behind R-TPT with few views."""

    def wrap(key="0:defender", fresh=False, **fields):
        return RTPT(**FEW | fields).wrap(classifier, tiny_processor.tokenizer, NAMES, Draws(key, fresh))

    return wrap


def views_of(defended, image):
    """Unit features of an image and its views, `(V, D)`."""
    (generator,) = Draws(defended.draws.key)(image[None])
    views = image_views.random_views(image, defended.defence.views, 16, generator, defended.defence.augmix)
    features = torch.cat([defended.classifier.embed(image[None]), defended.classifier.embed(views)])
    return F.normalize(features, dim=-1).detach()


def test_a_step_lowers_the_entropy_of_the_surest_views_as_adamw_does(behind):
    rate = 1e-4
    defended = behind(learning_rate=rate)
    embeds = views_of(defended, torch.rand(3, 16, 16))
    scale = defended.prompted.logit_scale.exp().item()

    def logits(context):
        return (scale * embeds @ defended._class_embeds(context).T).detach().double().numpy()

    before = logits(defended.start)
    single = [pointwise_entropy(before, [row]) for row in range(8)]
    np.testing.assert_allclose(entropy(torch.from_numpy(before)).numpy(), single, rtol=1e-9)
    chosen = list(np.argsort(single)[:3])
    context = defended.start.clone().requires_grad_()
    loss = entropy(scale * embeds[chosen] @ defended._class_embeds(context).T).mean()
    assert loss.item() == pytest.approx(pointwise_entropy(before, chosen), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, context)
    moved = torch.from_numpy(first_adamw_step(defended.start.numpy(), gradient.numpy(), rate))
    torch.testing.assert_close(defended.tune(embeds), defended._class_embeds(moved).detach(), atol=1e-6, rtol=1e-5)
    assert pointwise_entropy(logits(moved), chosen) < pointwise_entropy(before, chosen)


def test_the_views_vote_as_in_a_literal_twin(behind):
    defended, pixels = behind(), torch.rand(3, 3, 16, 16)
    scale = defended.prompted.logit_scale.exp()
    got = defended(pixels).detach()
    for image, logits in zip(pixels, got, strict=True):
        embeds = views_of(defended, image)
        of_views = (scale * embeds @ defended.tune(embeds).T).detach().numpy()
        np.testing.assert_allclose(logits.numpy(), vote(embeds.numpy(), of_views, 3, 0.01), rtol=1e-3, atol=1e-4)


def test_untuned_and_with_one_view_of_all_weight_it_is_the_plain_classifier(classifier, behind, monkeypatch):
    """A view that is the image itself, the words that the context starts from, and no step."""
    side = classifier.model.image_size
    whole = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    monkeypatch.setattr(image_views, "random_crops", lambda count, side, generator: whole.repeat(count, 1, 1))
    pixels = torch.rand(5, 3, side, side)
    got = behind(views=1, neighbours=1, steps=0, augmix=False)(pixels)
    torch.testing.assert_close(got, classifier(pixels), atol=1e-4, rtol=1e-5)


def test_every_image_begins_from_the_same_context(behind):
    """What was tuned for one image is forgotten for the next, and the model is left as it was."""
    defended, pixels = behind(learning_rate=1.0), torch.rand(4, 3, 11, 11)
    weights = {name: weight.clone() for name, weight in defended.classifier.model.state_dict().items()}
    together = defended(pixels)
    alone = torch.cat([defended(image[None]) for image in pixels.flip(0)]).flip(0)
    assert torch.equal(together, alone)
    assert not torch.allclose(together, behind(steps=0)(pixels))
    after = defended.classifier.model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in weights.items())
    assert all(parameter.grad is None for parameter in defended.parameters())


def test_an_attacker_gets_other_views(behind):
    pixels, attacker = torch.rand(2, 3, 16, 16), behind("0:attacker", fresh=True)
    first, second = attacker(pixels), attacker(pixels)
    assert not torch.equal(first, second)
    attacker.draws.restart()
    assert torch.equal(attacker(pixels), first)


@pytest.mark.parametrize("augmix", [False, True])
def test_the_gradient_is_that_of_the_vote_with_the_tuned_context_held(behind, augmix):
    """Against differences of the logits along the gradient, with class embeddings as they were."""
    defended = behind(augmix=augmix, temperature=0.5)
    image = 0.2 + 0.6 * torch.rand(1, 3, 16, 16)
    generator_key = Draws("0:defender")

    def logit(pixels, held):
        views = image_views.random_views(pixels[0], 7, 16, generator_key(image)[0], augmix)
        embeds = F.normalize(torch.cat([defended.classifier.embed(each) for each in (pixels, views)]), dim=-1)
        logits = defended.prompted.logit_scale.exp() * embeds @ held.T
        return (reliabilities(embeds, 3, 0.5) @ logits)[0]

    held = defended.tune(views_of(defended, image[0]))
    asked = image.clone().requires_grad_()
    output = defended(asked)[0, 0]
    torch.testing.assert_close(output, logit(image, held), atol=1e-4, rtol=1e-4)
    (gradient,) = torch.autograd.grad(output, asked)
    literal = image.clone().requires_grad_()
    (expected,) = torch.autograd.grad(logit(literal, held), literal)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-3)
    assert (gradient != 0).float().mean() > 0.9


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_answers_alike_without_gradients(behind, mode):
    pixels = torch.rand(2, 3, 16, 16)
    expected = behind()(pixels)
    with mode():
        assert torch.equal(behind()(pixels.clone()), expected)


def test_it_takes_the_passes_that_it_says(behind):
    defended = behind(steps=2)
    seen = {"image": 0, "text": 0, "back": 0}

    def images(module, inputs, output):
        seen["image"] += len(output.pooler_output)

    def texts(module, inputs, output):
        seen["text"] += len(output.pooler_output)
        if output.pooler_output.requires_grad:
            output.pooler_output.register_hook(backward)

    def backward(gradient):
        seen["back"] += len(gradient)

    handles = [
        defended.classifier.model.vision_model.register_forward_hook(images),
        defended.prompted.text_model.register_forward_hook(texts),
    ]
    with torch.no_grad():
        defended(torch.rand(8, 3, 16, 16))
    for handle in handles:
        handle.remove()
    said = defended.defence.passes(3)
    # Seven views are filled up to eight, so that one in eight of their passes is no view's.
    assert seen["image"] - 8 == 8 * said.image_forward
    assert (seen["text"], seen["back"]) == (8 * said.text_forward, 8 * said.text_backward)


@pytest.mark.parametrize("area", [1.0, 0.25])
def test_a_crop_is_that_of_slicing_and_resizing(area, monkeypatch):
    monkeypatch.setattr(image_views, "AREA", (area, area))
    monkeypatch.setattr(image_views, "RATIO", (1.0, 1.0))
    image = torch.rand(3, 12, 12)
    maps = image_views.random_crops(40, 12, torch.Generator().manual_seed(3))
    views = image_views.random_views(image, 40, 24, torch.Generator().manual_seed(3), mixed=False)
    size = round(12 * area**0.5)
    corners, flipped = set(), 0
    for view, rows in zip(views, maps, strict=True):
        left, top = ((rows[:, 2] + 1) * 12 - size) / 2
        crop = image[:, int(top.round()) :, int(left.round()) :][:, :size, :size]
        expected = F.interpolate(crop[None], (24, 24), mode="bilinear", align_corners=False)[0]
        if rows[0, 0] < 0:
            expected = expected.flip(-1)
        inside = slice(2, -2)  # at its edge a crop is smoothed with what lies beyond it
        torch.testing.assert_close(view[:, inside, inside], expected[:, inside, inside], atol=1e-5, rtol=1e-4)
        corners.add((int(left.round()), int(top.round())))
        flipped += int(rows[0, 0] < 0)
    assert 8 < flipped < 32
    assert len(corners) == 1 if area == 1 else len(corners) > 10


def test_operations_on_values_are_pillows():
    array = np.random.default_rng(0).integers(30, 200, (4, 9, 9, 3), dtype=np.uint8)
    array[1, :, :, 2] = 77
    images = torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255

    def pillow(operation, number):
        return torch.from_numpy(np.array(operation(Image.fromarray(array[number])))).permute(2, 0, 1) / 255

    levels = torch.tensor([0.1, 0.5, 0.99, 0.7])
    done = {
        ImageOps.autocontrast: image_views.autocontrast(images),
        ImageOps.equalize: image_views.equalize(images),
        (lambda image: ImageOps.posterize(image, 4)): image_views.posterize(images),
    }
    for operation, got in done.items():
        for number in range(4):
            torch.testing.assert_close(got[number], pillow(operation, number), atol=1.01 / 255, rtol=0)
    bright = images / images.amax()
    for number, level in enumerate(levels):
        picture = Image.fromarray((bright[number] * 255).round().byte().permute(1, 2, 0).numpy())
        solarized = ImageOps.solarize(picture, 256 - int(level * 25.6))
        exact = torch.from_numpy(np.array(solarized)).permute(2, 0, 1) / 255
        rounded = (bright * 255).round() / 255
        torch.testing.assert_close(image_views.solarize(rounded, levels)[number], exact, atol=1e-5, rtol=0)


@pytest.mark.parametrize("number", range(image_views.ROTATE, image_views.TRANSLATE_Y + 1))
def test_operations_that_move_pixels_are_pillows(number):
    """On a smooth image of the side that AugMix has its sizes for; at the edge, filling up differs."""
    side, level = 224, torch.tensor([0.9])
    ramp = torch.linspace(0, 3, side)
    across, down = ramp[None].expand(side, -1), ramp[:, None].expand(-1, side)
    image = torch.stack([across.sin() * down.cos(), across.cos(), down.sin() / 2 + across / 9])
    array = ((image * 0.5 + 0.5) * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(array)
    shear, shift = -0.9 * 0.03, -int(0.9 * side / 30)
    affine = {
        image_views.SHEAR_X: (1, shear, 0, 0, 1, 0),
        image_views.SHEAR_Y: (1, 0, 0, shear, 1, 0),
        image_views.TRANSLATE_X: (1, 0, shift, 0, 1, 0),
        image_views.TRANSLATE_Y: (1, 0, 0, 0, 1, shift),
    }
    if number == image_views.ROTATE:
        moved = picture.rotate(-2, resample=Image.Resampling.BILINEAR)
    else:
        moved = picture.transform((side, side), Image.Transform.AFFINE, affine[number], Image.Resampling.BILINEAR)
    images = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255
    got = image_views.operate(images, torch.tensor([number]), level, torch.tensor([-1.0]))[0]
    expected = torch.from_numpy(np.array(moved)).permute(2, 0, 1) / 255
    inside = slice(12, -12)
    torch.testing.assert_close(got[:, inside, inside], expected[:, inside, inside], atol=2.5 / 255, rtol=0)
    assert (got - images[0])[:, inside, inside].abs().max() > 5 / 255


def test_views_are_random_images_that_depend_on_all_pixels():
    image = torch.rand(3, 16, 16).requires_grad_()
    views = image_views.random_views(image, 60, 24, torch.Generator().manual_seed(0))
    assert views.shape == (60, 3, 24, 24)
    assert views.min() >= -1e-6
    assert views.max() <= 1 + 1e-6
    assert len({tuple(view.flatten()[:50].tolist()) for view in views}) == 60
    (gradient,) = torch.autograd.grad(views.square().sum(), image)
    assert (gradient != 0).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"views": 0}, "views of R-TPT must be a whole number from 1 on"),
        ({"views": 5}, "a view has 5 others, so neighbours cannot be 20"),
        ({"share": 0}, r"share of R-TPT must be in \(0, 1\]"),
        ({"learning_rate": 0}, "learning_rate of R-TPT must be above 0"),
        ({"context": " "}, "needs words to start from"),
    ],
)
def test_a_value_that_means_nothing_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        RTPT(**wrong)
