"""A saved model is an ordinary CLIP checkpoint, and an ordinary CLIP checkpoint can be loaded."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, CLIPConfig, CLIPModel, pipeline

from robust_clip.models import RobustCLIPModel, ZeroShotClassifier, embed_classes

NAMES = ["red", "green", "blue"]


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(3)]


@torch.no_grad()
def our_logits(model, tokenizer, images):
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in images])
    class_embeds = embed_classes(model, tokenizer, NAMES, ["This is a photo of a {}."])
    return ZeroShotClassifier(model, class_embeds)(pixels)


@pytest.mark.parametrize("stock_class", [CLIPModel, AutoModel])
def test_stock_transformers_loads_what_was_saved(tiny_checkpoint, tiny_model, tiny_processor, images, stock_class):
    stock, report = stock_class.from_pretrained(tiny_checkpoint, output_loading_info=True)
    assert type(stock) is CLIPModel
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    prompts = [f"This is a photo of a {name}." for name in NAMES]
    inputs = tiny_processor(text=prompts, images=images, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = stock.eval()(**inputs).logits_per_image
    torch.testing.assert_close(our_logits(tiny_model, tiny_processor.tokenizer, images), logits, rtol=0, atol=1e-5)


def test_the_saved_files_name_nothing_of_ours(tiny_checkpoint):
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("clip", ["CLIPModel"])
    for file in tiny_checkpoint.glob("*.json"):
        assert "RobustCLIP" not in file.read_text()
        assert "auto_map" not in file.read_text()


def test_the_zero_shot_pipeline_gives_our_probabilities(tiny_checkpoint, tiny_model, tiny_processor, images):
    classify = pipeline("zero-shot-image-classification", model=str(tiny_checkpoint), device="cpu")
    assert type(classify.model) is CLIPModel
    expected = our_logits(tiny_model, tiny_processor.tokenizer, images).softmax(dim=1)
    for image, probabilities in zip(images, expected, strict=True):
        answers = classify(image, candidate_labels=NAMES, hypothesis_template="This is a photo of a {}.")
        scores = {answer["label"]: answer["score"] for answer in answers}
        assert [scores[name] for name in NAMES] == pytest.approx(probabilities.tolist(), abs=1e-6)


def test_a_stock_checkpoint_loads_with_its_own_weights(tmp_path):
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, "vocab_size": 50, "bos_token_id": 48, "eos_token_id": 49},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    stock = CLIPModel(config).eval()
    stock.save_pretrained(tmp_path)
    model, report = RobustCLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, weight in stock.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert not model.training
    pixels = torch.rand(2, 3, 16, 16)
    features = stock.get_image_features(pixel_values=model.preprocess(pixels)).pooler_output
    assert torch.equal(model.encode_image(pixels), features)
