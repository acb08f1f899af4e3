"""What tests of objectives ask of a model: another to compare with, what it predicts, and where gradients went."""

import copy

import torch

from reference import class_prompts


def another(model, seed=1, size=0.05):
    """A copy of `model` with noise on all weights, so that it answers otherwise; its flags are the student's."""
    generator = torch.Generator().manual_seed(seed)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
        changed.logit_scale.copy_(model.logit_scale)
    return changed


def learned(model):
    """Names of the parameters that a backward pass gave a gradient other than 0."""
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def loss_and_gradients(objective, model, teacher, batch):
    """The sum of an objective's terms and its gradient by every parameter of `model`, from no gradient."""
    model.zero_grad()
    loss = torch.stack(list(objective(model, teacher, batch).values())).sum()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


def same_bits(first, second):
    """Whether two results of `loss_and_gradients` are equal to the bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@torch.no_grad()
def twin_logits(model, pixels, batch, scale):
    """Logits over the class prompts by the twin, of the features that `model` gives."""
    features = model.encode_image(pixels).double().numpy()
    return class_prompts.class_logits(features, batch.class_embeds.double().numpy(), scale)


@torch.no_grad()
def before_projection(model, pixels):
    """What the projection of the image tower is handed."""
    return model.vision_model(pixel_values=model.preprocess(pixels)).pooler_output.double().numpy()


def count_passes(**models):
    """Passes of each model's image tower by the model's name, from now on."""
    passes = dict.fromkeys(models, 0)
    for name, model in models.items():
        model.vision_model.register_forward_hook(lambda *_, name=name: passes.update({name: passes[name] + 1}))
    return passes


def mean_of_single_images(objective, student, teacher, batch):
    """The terms of an objective that is handed one image at a time."""
    alone = [objective(student, teacher, batch[torch.tensor([row])]) for row in range(len(batch.pixels))]
    return {name: torch.stack([terms[name] for terms in alone]).mean() for name in alone[0]}


def slope_at_a_pixel(loss, pixels, step=1e-2):
    """Derivative of the loss of one image by one of its values, where it is steep, and the difference quotient."""
    pixels = pixels.clone().requires_grad_()
    loss(pixels).sum().backward()
    spot = (0, 1, *divmod(int(pixels.grad[0, 1].abs().argmax()), pixels.shape[-1]))
    moved = [pixels.detach().clone(), pixels.detach().clone()]
    for image, sign in zip(moved, (1, -1), strict=True):
        image[spot] += sign * step
    return pixels.grad[spot].item(), (loss(moved[0]) - loss(moved[1])).item() / (2 * step)
