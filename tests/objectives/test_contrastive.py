"""Contrastive pre-training: symmetric InfoNCE of images and captions."""

import math
from dataclasses import replace

import pytest
import torch

from reference import class_prompts, contrastive
from robust_clip.objectives import Contrastive


@torch.no_grad()
def twin(model, batch, scale):
    images = model.encode_image(batch.pixels).double().numpy()
    texts = model.encode_text(batch.input_ids, batch.attention_mask)[batch.text_index].double().numpy()
    return contrastive.info_nce(class_prompts.class_logits(images, texts, scale), batch.text_index.tolist())


def test_contrastive_is_its_twin(tiny_model, batch):
    """Each caption belongs to two images of the batch."""
    loss = Contrastive()(tiny_model, None, batch)["contrastive"]
    assert loss.item() == pytest.approx(twin(tiny_model, batch, tiny_model.logit_scale.exp().item()), rel=1e-5)


def test_with_distinct_captions_it_is_the_loss_of_stock_clip(tiny_model, batch):
    distinct = replace(batch, pixels=batch.pixels[:3], text_index=torch.tensor([2, 0, 1]))
    loss = Contrastive()(tiny_model, None, distinct)["contrastive"]
    stock = tiny_model(
        pixel_values=tiny_model.preprocess(distinct.pixels),
        input_ids=batch.input_ids[distinct.text_index],
        attention_mask=batch.attention_mask[distinct.text_index],
        return_loss=True,
    )
    torch.testing.assert_close(loss, stock.loss)


def test_every_part_of_both_towers_and_the_temperature_learn(tiny_model, batch):
    Contrastive()(tiny_model, None, batch)["contrastive"].backward()
    still = [name for name, parameter in tiny_model.named_parameters() if parameter.grad is None]
    assert still == []


def test_the_temperature_is_bounded(tiny_model, batch):
    with torch.no_grad():
        tiny_model.logit_scale.fill_(math.log(1000.0))
    loss = Contrastive(max_logit_scale=50.0)(tiny_model, None, batch)["contrastive"]
    assert loss.item() == pytest.approx(twin(tiny_model, batch, 50.0), rel=1e-5)


def test_one_caption_for_all_images_is_a_toss_up_from_the_images_side(tiny_model, batch):
    same = replace(batch, text_index=torch.zeros(6).long())
    loss = Contrastive()(tiny_model, None, same)["contrastive"].item()
    assert loss == pytest.approx(twin(tiny_model, same, tiny_model.logit_scale.exp().item()), rel=1e-5)
    assert loss >= math.log(6) - 1e-6


def test_mistakes_are_refused(tiny_model, batch):
    with pytest.raises(ValueError, match="max_logit_scale must be positive, got 0"):
        Contrastive(max_logit_scale=0)
    with pytest.raises(ValueError, match="needs captions"):
        Contrastive()(tiny_model, None, replace(batch, input_ids=None))
