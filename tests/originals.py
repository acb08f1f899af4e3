"""Frozen originals for objectives that compare with one, and where gradients went."""

import copy

import torch


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
