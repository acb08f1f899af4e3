"""Every published format, built at random under its own names, gives the logits of the original architecture."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPProcessor

from robust_clip.hub import convert_checkpoint, load_published
from robust_clip.hub.checkpoint_files import sha256
from robust_clip.hub.prompters import save_prompters
from robust_clip.models import PromptedCLIPModel, RobustCLIPModel
from tests.hub.original_clip import OriginalCLIP
from tests.hub.published_formats import clean_model, model_inputs, tuned_model, write_base, write_open_clip

ACTS = pytest.mark.parametrize("act", ["quick_gelu", "gelu"])


@pytest.fixture
def inputs():
    return model_inputs()


@pytest.fixture
def clean(act):
    return clean_model(act)


@pytest.fixture
def tuned(act):
    return tuned_model(act)


@pytest.fixture
def base(tmp_path, act):
    return write_base(tmp_path, act)


@torch.no_grad()
def logits(folder, inputs):
    model, report = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images, ids = inputs
    return model.eval()(pixel_values=images, input_ids=ids).logits_per_image


def same(folder, original, inputs):
    with torch.no_grad():
        expected = original(*inputs)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits(folder, inputs), expected, atol=1e-5, rtol=1e-5)


@ACTS
@pytest.mark.parametrize("pickled", [False, True])
def test_open_clip(act, pickled, clean, inputs, tmp_path):
    source = write_open_clip(tmp_path / "source", clean, act, pickled=pickled)
    record = convert_checkpoint(load_published(source), tmp_path / "out", "huggingface")
    same(tmp_path / "out", clean, inputs)
    assert record["format"] == "open_clip"
    assert record["activation"] == f"{act}, by open_clip_config.json"
    (file,) = source.glob("open_clip_*model*")
    assert record["sha256"] == {file.name: sha256(file)}
    assert record["written"]["sha256"] == {"model.safetensors": sha256(tmp_path / "out" / "model.safetensors")}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["conversion"]["source"] == "source"


def test_an_open_clip_config_without_the_field_means_gelu(inputs, tmp_path):
    model = OriginalCLIP("gelu")
    converted = load_published(write_open_clip(tmp_path / "source", model, None))
    assert converted.config["conversion"]["activation"] == (
        "gelu, by open_clip_config.json, where quick_gelu is left out"
    )
    convert_checkpoint(converted, tmp_path / "out", "huggingface")
    same(tmp_path / "out", model, inputs)


def test_heads_and_inner_width_of_the_config_are_kept(inputs, tmp_path):
    model = OriginalCLIP("gelu", vision=(96, 4, 3), text=(48, 3, 2), ratio=3)
    convert_checkpoint(
        load_published(write_open_clip(tmp_path / "source", model, "gelu", text_heads=3)),
        tmp_path / "out",
        "huggingface",
    )
    same(tmp_path / "out", model, inputs)


@ACTS
def test_a_text_without_its_end_is_read_where_its_token_is_highest(act, clean, inputs, tmp_path):
    images, ids = inputs
    ids = ids.clamp(max=516)
    convert_checkpoint(load_published(write_open_clip(tmp_path / "s", clean, act)), tmp_path / "out", "huggingface")
    same(tmp_path / "out", clean, (images, ids))


@ACTS
def test_a_custom_text_tower_of_open_clip(act, clean, inputs, tmp_path):
    """open_clip's CustomTextCLIP keeps the text tower one level down, and a temperature of shape (1,)."""
    source = write_open_clip(tmp_path / "source", clean, act)
    weights = load_file(source / "open_clip_model.safetensors")
    weights["logit_scale"] = weights["logit_scale"].reshape(1)
    outer = ("visual.", "logit_scale")
    renamed = {name if name.startswith(outer) else f"text.{name}": w for name, w in weights.items()}
    save_file(renamed, source / "open_clip_model.safetensors")
    convert_checkpoint(load_published(source), tmp_path / "out", "huggingface")
    same(tmp_path / "out", clean, inputs)


@ACTS
def test_openais_own_state_dict(act, tuned, base, inputs, tmp_path):
    """Half precision, the numbers that OpenAI's archives carry, and wrappers' prefixes; no config."""
    weights = {f"module._orig_mod.{name}": tensor.half() for name, tensor in tuned.state_dict().items()}
    tuned.load_state_dict({name.removeprefix("module._orig_mod."): w.float() for name, w in weights.items()})
    weights |= {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save({"epoch": 1, "state_dict": weights}, tmp_path / "openai.pt")
    with pytest.raises(ValueError, match=f"does not say which activation.*moved by 0.02.*likely {act}"):
        load_published(tmp_path / "openai.pt", base=base)
    converted = load_published(tmp_path / "openai.pt", base=base, hidden_act=act)
    convert_checkpoint(converted, tmp_path / "out", "huggingface")
    same(tmp_path / "out", tuned, inputs)


@ACTS
@pytest.mark.parametrize("prefix", ["", "module.", "visual."])
def test_an_image_tower_alone_takes_the_text_tower_of_its_base(act, prefix, tuned, base, inputs, tmp_path):
    tower = {prefix + name: tensor for name, tensor in tuned.visual.state_dict().items()}
    torch.save(tower, tmp_path / "tower.pt")
    converted = load_published(tmp_path / "tower.pt", base=base, hidden_act=act)
    record = convert_checkpoint(converted, tmp_path / "out", "huggingface")
    same(tmp_path / "out", tuned, inputs)
    assert record["format"] == "visual"
    assert record["comparison"].startswith("its weights moved by 0.02 from a base with ")


@ACTS
def test_a_known_file_is_found_by_its_name_and_checked_all_the_same(act, tuned, base, tmp_path):
    torch.save(tuned.visual.state_dict(), tmp_path / "vitb32_fare_eps_4.pt")
    if act == "quick_gelu":
        config = load_published(tmp_path / "vitb32_fare_eps_4.pt", base=base).config
        assert config["conversion"]["activation"] == "quick_gelu, by the registry"
        assert "robustness" not in config  # a name is no evidence of training
    else:
        with pytest.raises(ValueError, match="quick_gelu by the registry, but the comparison with the base says gelu"):
            load_published(tmp_path / "vitb32_fare_eps_4.pt", base=base)


@ACTS
def test_a_checkpoint_of_tecoas_script_with_its_prompters(act, tuned, base, inputs, tmp_path):
    generator = torch.Generator().manual_seed(5)
    shapes = {"up": (1, 3, 2, 16), "down": (1, 3, 2, 16), "left": (1, 3, 12, 2), "right": (1, 3, 12, 2)}
    pads = {f"pad_{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tokens, positions = (torch.randn(shape, generator=generator) for shape in ((1, 3, 128), (3, 128)))
    content = {
        "epoch": 3,
        "best_acc1": np.float64(41.5),
        "optimizer": {"state": {}, "param_groups": [{"lr": 40.0}]},
        "state_dict": {f"module.{name}": pad for name, pad in pads.items()},
        "add_prompter": {"module.prompt": tokens},
        "vision_encoder_state_dict": tuned.visual.state_dict() | {"prompt_pos_embedding": positions},
    }
    torch.save(content, tmp_path / "model_best.pth.tar")
    converted = load_published(tmp_path / "model_best.pth.tar", base=base, hidden_act=act)
    assert converted.config["conversion"]["format"] == "tecoa"
    convert_checkpoint(converted, tmp_path / "out", "huggingface")
    same(tmp_path / "out", tuned, inputs)

    model = RobustCLIPModel.from_pretrained(tmp_path / "out")
    save_prompters(converted.prompters, model, tmp_path / "prompts")
    prompted = PromptedCLIPModel.from_pretrained(tmp_path / "prompts", base=str(tmp_path / "out"))
    middle = torch.cat([pads["pad_left"], torch.zeros(1, 3, 12, 12), pads["pad_right"]], dim=3)
    frame = torch.cat([pads["pad_up"], middle, pads["pad_down"]], dim=2)
    with torch.no_grad():
        expected = tuned.visual(inputs[0] + frame, tokens[0] + positions)
        features = prompted.get_image_features(pixel_values=inputs[0]).pooler_output
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("act", ["gelu"])
def test_a_patch_prompter_and_prompters_that_hold_nothing(act, tuned, base, tmp_path):
    content = {"vision_encoder_state_dict": tuned.visual.state_dict(), "state_dict": {"patch": torch.ones(1, 3, 4, 4)}}
    torch.save(content | {"add_prompter": {"prompt": torch.ones(1, 0, 768)}}, tmp_path / "patch.pt")
    prompters = load_published(tmp_path / "patch.pt", base=base, hidden_act=act).prompters
    assert list(prompters) == ["patch"]
    torch.save(content | {"state_dict": {"weight": torch.ones(1)}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="of pads or of a patch is known; this one has weight"):
        load_published(tmp_path / "other.pt", base=base, hidden_act=act)


@ACTS
def test_there_and_back_is_exact(act, base, inputs, tmp_path):
    """Hugging Face in shards, to open_clip, to Hugging Face."""
    model = CLIPModel.from_pretrained(base)
    model.save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    CLIPProcessor.from_pretrained(base).save_pretrained(tmp_path / "shards")
    convert_checkpoint(load_published(tmp_path / "shards"), tmp_path / "there", "open_clip")
    convert_checkpoint(load_published(tmp_path / "there"), tmp_path / "back", "huggingface")
    back = CLIPModel.from_pretrained(tmp_path / "back")
    for name, weight in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], weight), name
    for tower in ("vision_config", "text_config"):
        assert getattr(back.config, tower).to_dict() == getattr(model.config, tower).to_dict()
    assert torch.equal(logits(tmp_path / "back", inputs), logits(base, inputs))


@ACTS
def test_what_goes_to_open_clip_is_what_it_would_compute(act, clean, base, inputs, tmp_path):
    convert_checkpoint(load_published(base), tmp_path / "there", "open_clip")
    again = OriginalCLIP(act)
    again.load_state_dict(load_file(tmp_path / "there" / "open_clip_model.safetensors"))
    with torch.no_grad():
        assert torch.equal(again(*inputs), clean(*inputs))
    model = json.loads((tmp_path / "there" / "open_clip_config.json").read_text())["model_cfg"]
    assert model["quick_gelu"] == (act == "quick_gelu")
    assert (model["text_cfg"]["heads"], model["vision_cfg"]["head_width"], model["embed_dim"]) == (1, 64, 32)


def test_a_model_that_open_clip_would_read_otherwise_is_not_written(tiny_checkpoint, tmp_path):
    converted = load_published(tiny_checkpoint)
    converted.config["text_config"]["hidden_act"] = "gelu"
    with pytest.raises(ValueError, match=r"gelu for both towers together; this model has \['gelu', 'quick_gelu"):
        convert_checkpoint(converted, tmp_path / "out", "open_clip")
    converted = load_published(tiny_checkpoint)
    converted.config["text_config"]["eos_token_id"] = 7
    with pytest.raises(ValueError, match="the last token is 7 of 527; it must be the last of the vocabulary"):
        convert_checkpoint(converted, tmp_path / "out", "open_clip")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="converted to huggingface or open_clip, got 'onnx'"):
        convert_checkpoint(converted, tmp_path / "out", "onnx")


@pytest.mark.parametrize("act", ["gelu"])
def test_everything_or_nothing_also_of_what_goes_along(act, base, tmp_path):
    def fail(folder):
        assert (folder / "model.safetensors").is_file()
        raise ValueError("does not fit")

    with pytest.raises(ValueError, match="does not fit"):
        convert_checkpoint(load_published(base), tmp_path / "out", "huggingface", also=fail)
    assert not list(tmp_path.glob("*out*"))


@ACTS
def test_a_pickle_of_hugging_face_keeps_its_config(act, base, inputs, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    model = CLIPModel.from_pretrained(base)
    model.config.save_pretrained(source)
    torch.save(model.state_dict(), source / "pytorch_model.bin")
    converted = load_published(source, base=base)
    convert_checkpoint(converted, tmp_path / "out", "huggingface")
    assert torch.equal(logits(tmp_path / "out", inputs), logits(base, inputs))


@ACTS
def test_stock_processor_is_written(act, base):
    processor = CLIPProcessor.from_pretrained(base)
    batch = processor(text=["a red", "a photo of a green"], padding=True, return_tensors="pt")
    assert batch["input_ids"].max() == 526
    assert processor.tokenizer.model_max_length == 12
    assert processor.image_processor.crop_size["height"] == 16
