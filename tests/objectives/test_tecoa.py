"""TeCoA: cross-entropy of the adversarial images over class prompts."""

from dataclasses import replace

import pytest
import torch

from originals import twin_logits
from reference import class_prompts
from robust_clip.objectives import Clean, TeCoA


def test_tecoa_is_its_twin(tiny_model, batch):
    loss = TeCoA()(tiny_model, None, batch)["tecoa"]
    logits = twin_logits(tiny_model, batch.adversarial, batch, tiny_model.logit_scale.exp().item())
    assert loss.item() == pytest.approx(class_prompts.cross_entropy(logits, batch.labels.numpy()), rel=1e-5)


def test_tecoa_sees_only_the_adversarial_images(tiny_model, batch):
    loss = TeCoA()(tiny_model, None, batch)["tecoa"]
    assert torch.equal(TeCoA()(tiny_model, None, replace(batch, pixels=torch.rand(6, 3, 16, 16)))["tecoa"], loss)
    assert not torch.allclose(TeCoA()(tiny_model, None, replace(batch, adversarial=batch.pixels))["tecoa"], loss)


def test_tecoa_on_clean_images_is_clean_fine_tuning(tiny_model, batch):
    """Loss and every gradient, to the bit."""
    gradients = []
    for objective in (TeCoA(), Clean()):
        tiny_model.zero_grad()
        (loss,) = objective(tiny_model, None, replace(batch, adversarial=batch.pixels)).values()
        loss.backward()
        grads = {name: p.grad.clone() for name, p in tiny_model.named_parameters() if p.grad is not None}
        gradients.append({"loss": loss.detach(), **grads})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
