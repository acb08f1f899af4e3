"""A batch with classes and captions for the tiny CLIP."""

import pytest
import torch

from robust_clip.models import embed_classes
from robust_clip.objectives import Batch

NAMES = ["red", "green", "blue"]


@pytest.fixture
def batch(tiny_model, tiny_processor):
    """Six images of three classes; adversarial images that are not the clean ones; captions 0, 1, 2, 0, 1, 2."""
    pixels, labels = torch.rand(6, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    tokens = tiny_processor.tokenizer([f"a {name}" for name in NAMES], padding=True, return_tensors="pt")
    return Batch(
        pixels=pixels,
        adversarial=(pixels + 0.1 * torch.randn_like(pixels)).clamp(0, 1),
        labels=labels,
        class_embeds=embed_classes(tiny_model, tiny_processor.tokenizer, NAMES, ["a photo of a {}"]),
        input_ids=tokens["input_ids"],
        attention_mask=tokens["attention_mask"],
        text_index=labels.clone(),
    )
