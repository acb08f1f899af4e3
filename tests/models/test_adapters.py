"""Adapters on disk: loaded with their base, named so that others find it, and not put on another in silence."""

import json
import logging

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import CLIPModel

from robust_clip.adaptation import LoRA, PeftMethod
from robust_clip.cli import main
from robust_clip.evaluation.revision import checkpoint_revision, readable_id, weights_revision
from robust_clip.models import RobustCLIPModel, load_checkpoint
from robust_clip.models.adapters import digest_of_base
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


@pytest.mark.filterwarnings("error")
def test_an_adapter_is_saved_without_a_look_at_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *_: pytest.fail("was asked"))
    model, _ = load_checkpoint("nano_clip")
    LoRA(["vision", "text"], ["q_proj"], r=1).apply(model).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {name.rsplit(".", 2)[-2] for name in saved} == {"lora_A", "lora_B"}


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
    assert digest_of_base(RobustCLIPModel.from_pretrained(tiny_checkpoint)) in told
    assert digest_of_base(other) in told


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
    assert digest_of_base(adapted) == digest_of_base(RobustCLIPModel.from_pretrained(tiny_checkpoint))


def learned(model, seed):
    """The model with whatever of it learns at random."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed + number))
                parameter.add_(noise / 4)
    return model.eval()


@pytest.mark.parametrize(
    "adaptation",
    [
        LoRA(r=2, peft_config={"use_dora": True}),
        *(PeftMethod(peft_config={"peft_type": each}) for each in ("LOHA", "LOKR", "OFT", "HRA", "DELORA")),
    ],
    ids=str,
)
def test_whatever_a_method_learns_comes_back(tiny_model, tiny_checkpoint, tmp_path, adaptation):
    adapted = learned(adaptation.apply(tiny_model), seed=1)
    adapted.save_pretrained(tmp_path)
    stock = PeftModel.from_pretrained(CLIPModel.from_pretrained(tiny_checkpoint), tmp_path).eval()
    expected = adapted.encode_image(PIXELS)
    theirs = stock.get_image_features(pixel_values=adapted.preprocess(PIXELS)).pooler_output
    assert torch.equal(RobustCLIPModel.from_pretrained(tmp_path).encode_image(PIXELS), expected)
    torch.testing.assert_close(theirs, expected)


def test_half_precision_is_no_other_base(adapter, caplog):
    _, folder = adapter
    with caplog.at_level(logging.WARNING, logger="robust_clip"):
        model = RobustCLIPModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert not caplog.messages
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_adapters_are_different_models_to_a_record(adapter, tmp_path):
    """By name and by revision, whichever is active; the base is another one still."""
    adapted, folder = adapter
    model = RobustCLIPModel.from_pretrained(folder)
    learned(adapted, seed=9).save_pretrained(tmp_path / "other")
    model.load_adapter(str(tmp_path / "other"), adapter_name="other")
    seen = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        seen[readable_id(model)] = checkpoint_revision(str(folder), model)
    model.disable_adapters()
    assert seen.keys() == {"adapter", "other"}
    assert len({*seen.values(), weights_revision(model)}) == 3


def test_merging_leaves_an_ordinary_checkpoint(adapter, tiny_checkpoint, tmp_path, capsys):
    adapted, folder = adapter
    expected = adapted.encode_image(PIXELS)
    assert main(["merge", str(tiny_checkpoint), str(folder), str(tmp_path / "merged"), "--alpha", "1"]) == 0
    merged = RobustCLIPModel.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged.encode_image(PIXELS), expected)
    assert merged.state_dict().keys() == RobustCLIPModel.from_pretrained(tiny_checkpoint).state_dict().keys()
    with pytest.raises(ValueError, match="no adapter to merge"):
        merged.merge_and_unload()


def test_packaged_names_are_known_to_from_pretrained():
    assert RobustCLIPModel.from_pretrained("nano_clip").image_size == 64
