"""A CLIP that matches sixteen images with their captions because its projections were solved for it."""

import io

import datasets
import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from robust_clip.data import ImageDataset, PixelCollator
from robust_clip.models.scratch import build_clip
from robust_clip.models.zero_shot import tokenize

NOUNS = ("cat", "dog", "boat", "tree")
CAPTIONS = [[f"a {colour} {noun}"] for colour in ("red", "green", "pale", "tiny") for noun in NOUNS]
# Several for some of the images, and one that two images share.
for place, caption in ((0, "cat over there"), (0, "the red one"), (5, "dog over there"), (9, "dog over there")):
    CAPTIONS[place].append(caption)
TOWER = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def captioned_rows(captions=CAPTIONS):
    """Images of 16 random squares each, 16 or 12 pixels wide, with lists of captions."""
    random = np.random.default_rng(0)
    images = []
    for place in range(len(captions)):
        array = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        file = io.BytesIO()
        side = 12 if place % 3 == 2 else 16
        Image.fromarray(array).resize((side, side), Image.Resampling.NEAREST).save(file, "PNG")
        images.append({"bytes": file.getvalue(), "path": None})
    features = {"image": datasets.Image(), "captions": datasets.List(datasets.Value("string"))}
    return datasets.Dataset.from_dict({"image": images, "captions": captions}, datasets.Features(features))


def captioned(captions=CAPTIONS):
    return ImageDataset(captioned_rows(captions), name="squares", split="test")


@torch.no_grad()
def build_paired_clip():
    """The model, in eval mode, and its processor."""
    torch.manual_seed(0)
    flat = [caption for texts in CAPTIONS for caption in texts]
    vision = {**TOWER, "image_size": 16, "patch_size": 8}
    model, processor = build_clip(flat, vision_config=vision, text_config=TOWER, projection_dim=8, vocab_size=530)
    model.eval()
    dataset, collator = captioned(), PixelCollator(16, "model")
    pixels = collator([dataset[row] for row in range(len(dataset))])["pixels"]
    images = model.vision_model(pixel_values=model.preprocess(pixels)).pooler_output
    texts = model.text_model(**tokenize(processor.tokenizer, flat, "cpu")).pooler_output
    targets = functional.normalize(torch.randn(len(pixels), 8), dim=-1)
    image_of = [image for image, group in enumerate(CAPTIONS) for _ in group]
    # Small singular values are left out, so that some of the pairs do not match.
    for layer, found, wanted in (
        (model.visual_projection, images, targets),
        (model.text_projection, texts, targets[image_of]),
    ):
        layer.weight.copy_((torch.linalg.pinv(found, rtol=0.02) @ wanted).T)
    return model, processor
