"""What other libraries make of a saved robust model: the numbers that it gives here."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from robust_clip import RobustCLIPModel, clip_score_model, swap_vision_tower

TEXTS = ["a photo of a red", "blue", "green, and a rather long description"]
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}

# Where robust_clip is not there to be imported.
ELSEWHERE = """
import sys
sys.modules["robust_clip"] = None
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline
from transformers import AutoModelForZeroShotImageClassification

clip, llava, out, *names = sys.argv[1:]
images = [Image.open(name) for name in names]
labels = ["red", "green", "blue"]
processor = AutoProcessor.from_pretrained(clip)
inputs = processor(text=labels, images=images, padding=True, return_tensors="pt")
answers = pipeline("zero-shot-image-classification", model=clip, device="cpu")(
    images, candidate_labels=labels, hypothesis_template="{}"
)
with torch.no_grad():
    tower = AutoModelForImageTextToText.from_pretrained(llava).model.vision_tower
    torch.save(
        {
            "robustness": AutoConfig.from_pretrained(clip).robustness,
            "logits": AutoModel.from_pretrained(clip)(**inputs).logits_per_image,
            "classifier": AutoModelForZeroShotImageClassification.from_pretrained(clip)(**inputs).logits_per_image,
            "scores": [{answer["label"]: answer["score"] for answer in answer} for answer in answers],
            "pooled": tower(inputs["pixel_values"]).pooler_output,
        },
        out,
    )
assert not [name for name in sys.modules if name.startswith("robust_clip.")]
"""


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in TEXTS]


@pytest.fixture
def pixels(images):
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in images])


@pytest.fixture
def features(tiny_model, tiny_processor, pixels):
    """Of the images and of the texts, as the model itself gives them."""
    tokens = tiny_processor.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return tiny_model.encode_image(pixels), tiny_model.encode_text(tokens["input_ids"], tokens["attention_mask"])


@torch.no_grad()
def test_without_this_package_stock_transformers_gives_the_same_numbers(
    tiny_model, tiny_processor, images, pixels, tmp_path
):
    """By the Auto classes, by the pipeline, and for a LLaVA with the robust tower."""
    clip, llava, out = tmp_path / "clip", tmp_path / "llava", tmp_path / "answers.pt"
    tiny_model.config.robustness = {"objective": "TeCoA"}
    tiny_model.save_pretrained(clip)
    tiny_processor.save_pretrained(clip)
    vision = CLIPVisionConfig(**TOWER, image_size=16, patch_size=8)
    text = LlamaConfig(**TOWER, vocab_size=40, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    vlm = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=39))
    swap_vision_tower(vlm, clip, tiny_processor).save_pretrained(llava)
    names = [tmp_path / f"{index}.png" for index in range(len(images))]
    for image, name in zip(images, names, strict=True):
        image.save(name)
    arguments = [str(argument) for argument in (clip, llava, out, *names)]
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

    theirs = torch.load(out, weights_only=True)
    tokens = tiny_processor.tokenizer(["red", "green", "blue"], padding=True, return_tensors="pt")
    texts = tiny_model.encode_text(tokens["input_ids"], tokens["attention_mask"])
    cosines = torch.cosine_similarity(tiny_model.encode_image(pixels)[:, None], texts[None], dim=-1)
    logits = tiny_model.logit_scale.exp() * cosines
    assert theirs["robustness"] == {"objective": "TeCoA"}
    for name in ("logits", "classifier"):
        torch.testing.assert_close(theirs[name], logits, rtol=0, atol=1e-5)
    scores = torch.tensor([[answer[label] for label in ("red", "green", "blue")] for answer in theirs["scores"]])
    torch.testing.assert_close(scores, logits.softmax(-1), rtol=0, atol=1e-5)
    pooled = tiny_model.vision_model(tiny_model.preprocess(pixels)).pooler_output
    torch.testing.assert_close(theirs["pooled"], pooled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrapper", ["Transformer", "CLIPModel"])
def test_sentence_transformers_embeds_images_and_texts_alike(tiny_checkpoint, images, features, wrapper):
    """By what it makes of the folder itself, and by its older module for CLIP."""
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    from sentence_transformers.sentence_transformer import modules

    settings = {"modules": [modules.CLIPModel(str(tiny_checkpoint))]} if wrapper == "CLIPModel" else {}
    folder = () if settings else (str(tiny_checkpoint),)
    encoder = library.SentenceTransformer(*folder, device="cpu", **settings)
    assert type(encoder[0]).__name__ == wrapper
    for inputs, expected in zip((images, TEXTS), features, strict=True):
        torch.testing.assert_close(encoder.encode(inputs, convert_to_tensor=True), expected, rtol=0, atol=1e-5)
        embeds = encoder.encode(inputs, convert_to_tensor=True, normalize_embeddings=True)
        unit = torch.nn.functional.normalize(expected, dim=-1)
        torch.testing.assert_close(embeds, unit, rtol=0, atol=1e-5)


def test_torchmetrics_scores_with_the_robust_model(tiny_model, tiny_processor, pixels, features):
    """100 times the mean cosine of pairs, and never below 0; images of values from 0 to 255."""
    multimodal = pytest.importorskip("torchmetrics.multimodal", reason="torchmetrics is not installed")
    metric = multimodal.CLIPScore(clip_score_model(tiny_model, tiny_processor))
    assert isinstance(metric.model.model, RobustCLIPModel)
    images, texts = features
    cosines = torch.cosine_similarity(images, texts)
    for chosen in (cosines > 0, cosines < 0, cosines > -2):
        if not chosen.any():
            continue
        metric.reset()
        for row in chosen.nonzero().flatten().tolist():
            metric.update((255 * pixels[row : row + 1]).round().byte(), TEXTS[row : row + 1])
        expected = (100 * cosines[chosen]).mean().clamp_min(0)
        torch.testing.assert_close(metric.compute(), expected, rtol=0, atol=1e-4)
    between = metric((255 * pixels).round().byte(), (255 * pixels.flip(0)).round().byte())
    mean = 100 * torch.cosine_similarity(images, images.flip(0)).mean()
    torch.testing.assert_close(between, mean, rtol=0, atol=1e-4)
