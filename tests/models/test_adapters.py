"""Adapters on disk: loaded with their base, named so that others find it, and not put on another in silence."""

import json
import logging

import pytest
import torch

from robust_clip.adaptation import LoRA
from robust_clip.models import RobustCLIPModel, load_checkpoint
from robust_clip.models.adapters import base_digest
from robust_clip.models.scratch import build_clip

PIXELS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def adapter(tiny_model, tmp_path):
    """A model with an adapter that has learned, and the folder where that is saved."""
    tiny_model.config.robustness = {"objective": "TeCoA"}
    adapted = LoRA(r=2).apply(tiny_model).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    adapted.save_pretrained(tmp_path / "adapter")
    return adapted, tmp_path / "adapter"


def test_an_adapter_comes_back_with_its_base_and_record(adapter, tiny_checkpoint):
    adapted, folder = adapter
    for base in (None, tiny_checkpoint):
        loaded = RobustCLIPModel.from_pretrained(folder, base=base)
        assert torch.equal(loaded.encode_image(PIXELS), adapted.encode_image(PIXELS))
        assert loaded.config.robustness["objective"] == "TeCoA"
        assert not loaded.training


def test_load_checkpoint_takes_the_processor_of_the_base(adapter):
    adapted, folder = adapter
    model, processor = load_checkpoint(str(folder))
    assert torch.equal(model.encode_image(PIXELS), adapted.encode_image(PIXELS))
    assert processor.tokenizer is not None


def test_an_adapter_of_a_packaged_model_names_it_as_others_do(tmp_path):
    model, _ = load_checkpoint("nano_clip")
    LoRA(r=1, target_modules=["q_proj"]).apply(model).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "nano_clip"
    assert json.loads((tmp_path / "robustness.json").read_text())["base"] == "nano_clip"
    assert RobustCLIPModel.from_pretrained(tmp_path).active_adapters() == ["default"]


def test_a_base_with_other_weights_is_warned_of_with_both_digests(adapter, tiny_checkpoint, tmp_path, caplog):
    _, folder = adapter
    other = RobustCLIPModel.from_pretrained(tiny_checkpoint)
    with torch.no_grad():
        other.visual_projection.weight.add_(1)
    other.save_pretrained(tmp_path / "other")
    with caplog.at_level(logging.WARNING, logger="robust_clip"):
        RobustCLIPModel.from_pretrained(folder)
        assert not caplog.messages
        RobustCLIPModel.from_pretrained(folder, base=str(tmp_path / "other"))
    (told,) = caplog.messages
    assert base_digest(RobustCLIPModel.from_pretrained(tiny_checkpoint)) in told
    assert base_digest(other) in told


def test_a_base_of_another_width_is_refused(adapter, tmp_path):
    _, folder = adapter
    tower = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**tower, "image_size": 16, "patch_size": 8}
    narrow, _ = build_clip(["a"], vision_config=vision, text_config=tower, projection_dim=8, vocab_size=530)
    narrow.save_pretrained(tmp_path / "narrow")
    with pytest.raises(ValueError, match="made for another base"):
        RobustCLIPModel.from_pretrained(folder, base=str(tmp_path / "narrow"))


def test_an_adapter_that_names_no_base_is_refused(adapter):
    _, folder = adapter
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="does not say which base"):
        RobustCLIPModel.from_pretrained(folder)


def test_the_digest_is_of_the_base_alone(adapter, tiny_checkpoint):
    adapted, _ = adapter
    assert base_digest(adapted) == base_digest(RobustCLIPModel.from_pretrained(tiny_checkpoint))
