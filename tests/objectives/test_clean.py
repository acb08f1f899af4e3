"""Clean fine-tuning: cross-entropy of the clean images over class prompts."""

from dataclasses import replace

import pytest
import torch

from originals import twin_logits
from reference import class_prompts
from robust_clip.objectives import Clean


def test_clean_is_its_twin(tiny_model, batch):
    loss = Clean()(tiny_model, None, batch)["clean"]
    logits = twin_logits(tiny_model, batch.pixels, batch, tiny_model.logit_scale.exp().item())
    assert loss.item() == pytest.approx(class_prompts.cross_entropy(logits, batch.labels.numpy()), rel=1e-5)


def test_clean_never_looks_at_adversarial_images(tiny_model, batch):
    loss = Clean()(tiny_model, None, batch)["clean"]
    assert torch.equal(Clean()(tiny_model, None, replace(batch, adversarial=batch.pixels))["clean"], loss)


def test_one_class_is_learned_already(tiny_model, batch):
    one = replace(batch, class_embeds=batch.class_embeds[:1], labels=torch.zeros(6).long())
    assert Clean()(tiny_model, None, one)["clean"].item() == 0
