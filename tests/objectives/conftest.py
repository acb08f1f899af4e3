"""A batch with classes and captions for the tiny CLIP, and an original that it has moved away from."""

from dataclasses import replace

import pytest
import torch

from originals import another
from robust_clip.models import embed_classes
from robust_clip.objectives import Batch

NAMES = ["red", "green", "blue"]


@pytest.fixture
def teacher(tiny_model):
    return another(tiny_model)


@pytest.fixture
def pairs(batch, tiny_processor):
    """The batch with other attacked captions."""
    tokens = tiny_processor.tokenizer(["a rod", "a grain", "a glue"], padding=True, return_tensors="pt")
    return replace(batch, attacked_ids=tokens["input_ids"], attacked_mask=tokens["attention_mask"])


@pytest.fixture
def batch(tiny_model, tiny_processor):
    """Six images of three classes; adversarial ones that differ; captions 0, 1, 2, 0, 1, 2, clean and attacked."""
    pixels, labels = torch.rand(6, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    tokenizer = tiny_processor.tokenizer
    tokens = tokenizer([f"a {name}" for name in NAMES], padding=True, return_tensors="pt")
    attacked = tokenizer([f"a {name}x" for name in NAMES], padding=True, return_tensors="pt")
    prompts = tokenizer([f"a photo of a {name}" for name in NAMES], padding=True, return_tensors="pt")
    class_embeds = embed_classes(tiny_model, tokenizer, NAMES, ["a photo of a {}"])
    return Batch(
        pixels=pixels,
        adversarial=(pixels + 0.1 * torch.randn_like(pixels)).clamp(0, 1),
        labels=labels,
        class_embeds=class_embeds,
        original_class_embeds=class_embeds,
        other_class_embeds=embed_classes(tiny_model, tokenizer, NAMES, ["This is not a photo of a {}"]),
        prompt_ids=prompts["input_ids"],
        prompt_mask=prompts["attention_mask"],
        input_ids=tokens["input_ids"],
        attention_mask=tokens["attention_mask"],
        text_index=labels.clone(),
        attacked_ids=attacked["input_ids"],
        attacked_mask=attacked["attention_mask"],
    )
