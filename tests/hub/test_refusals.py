"""What cannot become a CLIPModel is refused with the reason, and nothing of a pickle is run."""

import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from robust_clip.hub import convert_checkpoint, load_published
from robust_clip.hub.formats import detect_format
from tests.hub.original_clip import OriginalCLIP
from tests.hub.published_formats import clean_model, tuned_model, write_base, write_open_clip


@pytest.fixture
def source(tmp_path):
    """An open_clip folder that converts."""
    return write_open_clip(tmp_path / "source", clean_model("gelu"), "gelu")


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path, "quick_gelu")


def tower_file(folder, weights):
    torch.save(weights, folder / "tower.pt")
    return folder / "tower.pt"


def rename(folder, old, new):
    file = folder / "open_clip_model.safetensors"
    weights = load_file(file)
    if new is not None:
        weights[new] = weights[old]
    del weights[old]
    save_file(weights, file)


def configure(folder, section, **values):
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    (config["model_cfg"][section] if section else config["model_cfg"]).update(values)
    file.write_text(json.dumps(config))


BLOCK = "visual.transformer.resblocks.1"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            f"{BLOCK}.mlp.c_fc.weight",
            f"{BLOCK}.mlp.fc.weight",
            rf"1 names .* first '{BLOCK}.mlp.fc.weight'; nearest is '{BLOCK}.mlp.c_fc.weight', which is missing",
        ),
        ("logit_scale", "logit_scales", "first 'logit_scales'; nearest is 'logit_scale', which is missing"),
        ("ln_final.bias", None, "lacks 1 of .* parameters, first 'ln_final.bias'"),
        (f"{BLOCK}.attn.in_proj_weight", None, f"lacks 1 of .* first '{BLOCK}.attn.in_proj_weight'"),
        ("logit_scale", "logit_bias", "it has a logit bias, as SigLIP has"),
        ("visual.conv1.weight", "visual.trunk.stem.0.weight", r"tower is timm's \(ConvNeXt and others\)"),
        ("visual.proj", "visual.attnpool.c_proj.weight", "image tower is a ResNet"),
        ("text_projection", "text.transformer.embeddings.word_embeddings.weight", "a BERT of Hugging Face with WordP"),
        ("ln_final.bias", "visual.attn_pool.query", "pools by attention"),
        ("ln_final.bias", f"{BLOCK}.ls_1.gamma", "layer scale"),
        ("ln_final.bias", "prompt_learner.ctx", "text prompts of a prompt learner"),
        ("ln_final.bias", "base_model.model.visual.proj.lora_A.weight", "adapter of peft.*PeftModel"),
    ],
)
def test_names(source, old, new, message):
    rename(source, old, new)
    with pytest.raises(ValueError, match=message):
        load_published(source)


def test_a_tower_without_its_first_normalisation(source):
    for kind in ("weight", "bias"):
        rename(source, f"visual.ln_pre.{kind}", None)
    with pytest.raises(ValueError, match=r"has no ln_pre, .*\(as DeltaCLIP.*cannot be expressed as a CLIPModel"):
        load_published(source)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("vision_cfg", {"timm_model_name": "convnext_base"}, r"asks for a tower of timm \(ConvNeXt"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, "image tower is a ResNet"),
        ("vision_cfg", {"no_ln_pre": True}, r"no normalisation before the first block \(as DeltaCLIP\)"),
        ("vision_cfg", {"pool_type": "avg"}, "asks for pool_type: 'avg', which a CLIPModel has no place for"),
        ("text_cfg", {"hf_model_name": "roberta-base"}, "BERT-like text tower"),
        ("text_cfg", {"hf_tokenizer_name": "bert-base-uncased"}, "texts are tokenised by 'bert-base-uncased'"),
        ("text_cfg", {"no_causal_mask": True}, "text attention in both directions"),
        (None, {"init_logit_bias": -10}, "a logit bias"),
        (None, {"multimodal_cfg": {"width": 64}}, "a CoCa"),
        ("vision_cfg", {"image_size": 32}, "config says image_size 32, and its weights have 16"),
        ("text_cfg", {"context_length": 77}, "config says context_length 77, and its weights have 12"),
        ("vision_cfg", {"width": 256}, "config says vision width 256, and its weights have 128"),
    ],
)
def test_open_clip_configs(source, section, values, message):
    configure(source, section, **values)
    with pytest.raises(ValueError, match=message):
        load_published(source)


def test_fields_that_change_nothing_are_taken(source):
    configure(source, "vision_cfg", pool_type="tok", patch_dropout=0.5, image_size=[16, 16], timm_model_name=None)
    configure(source, "text_cfg", hf_tokenizer_name="openai/clip-vit-large-patch14", pool_type="argmax")
    load_published(source)


def test_a_wordpiece_vocabulary(source):
    (source / "vocab.txt").write_text("[CLS]\n")
    with pytest.raises(ValueError, match=r"WordPiece vocabulary \(vocab.txt\), as BERT has"):
        load_published(source)


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("share", [0.5, 0.01, 0])
def test_files_that_are_cut_short(tmp_path, pickled, share):
    folder = write_open_clip(tmp_path / "source", clean_model("gelu"), "gelu", pickled=pickled)
    (file,) = folder.glob("open_clip_*model*")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(ValueError, match=r"\(\d+ bytes\) is damaged or cut short.*compare its size or sha256"):
        load_published(folder)


def test_a_pointer_of_git_lfs(source):
    (source / "open_clip_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match="Git LFS pointer, not the weights: run `git lfs pull`"):
        load_published(source)


class Intruder:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_in_it_is_not_run(tmp_path, zipped):
    content = {"state_dict": {"conv1.weight": torch.ones(1)}, "epoch": Intruder(tmp_path / "made")}
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="more than tensors and numbers: it wants posix.mkdir. Nothing of") as error:
        load_published(tmp_path / "evil.pt")
    assert not (tmp_path / "made").exists()
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__  # torch's advice to run it all the same


def test_a_torchscript_archive(tmp_path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "ViT.pt")
    with pytest.raises(ValueError, match=r"TorchScript archive, which holds code. Save the state dict"):
        load_published(tmp_path / "ViT.pt")


def test_an_image_tower_without_a_base(tmp_path):
    file = tower_file(tmp_path, clean_model("gelu").visual.state_dict())
    with pytest.raises(ValueError, match="an image tower and no text tower. Give the clean CLIP"):
        load_published(file)
    with pytest.raises(ValueError, match="needs the text tower of .*nowhere"):
        load_published(file, base="someone/nowhere")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"vision": (192, 3, 2)}, "width 192 against 128"),
        ({"vision": (128, 2, 3)}, "depth 3 against 2"),
        ({"patch": 4}, "patch size 4 against 8"),
        ({"side": 24}, "image size 24 against 16"),
        ({"joint": 16}, "joint width 16 against 32"),
    ],
)
def test_an_image_tower_that_does_not_fit_its_base(tmp_path, base, sizes, message):
    file = tower_file(tmp_path, OriginalCLIP("quick_gelu", **sizes).visual.state_dict())
    with pytest.raises(ValueError, match=f"does not fit the base .*{message}.* Give the CLIP that it was"):
        load_published(file, base=base, hidden_act="quick_gelu")


def test_an_image_tower_of_another_training(tmp_path, base):
    """It fits by its shapes, but the base's text tower means nothing to it."""
    file = tower_file(tmp_path, OriginalCLIP("quick_gelu").visual.state_dict())
    with pytest.raises(ValueError, match=r"was not trained from .* 1\.\d of the base's norm apart.*--unchecked"):
        load_published(file, base=base, hidden_act="quick_gelu")
    record = load_published(file, base=base, hidden_act="quick_gelu", unchecked=True).config["conversion"]
    assert record["activation"] == "quick_gelu, by hidden_act"


def test_a_wrong_activation(tmp_path, base):
    file = tower_file(tmp_path, tuned_model("quick_gelu").visual.state_dict())
    with pytest.raises(ValueError, match="is gelu by hidden_act, but the comparison .* says quick_gelu") as no:
        load_published(file, base=base, hidden_act="gelu")
    assert re.search(r"features by \S+ under gelu, \S+ under quick_gelu", str(no.value))
    converted = load_published(file, base=base, hidden_act="gelu", unchecked=True)
    assert converted.config["vision_config"]["hidden_act"] == "gelu"
    assert converted.config["text_config"]["hidden_act"] == "quick_gelu"
    with pytest.raises(ValueError, match="gives the activation 'relu'; allowed are quick_gelu, gelu"):
        load_published(file, base=base, hidden_act="relu")


def test_a_config_that_contradicts_the_user_or_the_base(tmp_path, base):
    folder = write_open_clip(tmp_path / "source", tuned_model("quick_gelu"), "gelu")
    with pytest.raises(ValueError, match="is quick_gelu by hidden_act, but open_clip_config.json says gelu"):
        load_published(folder, hidden_act="quick_gelu")
    with pytest.raises(ValueError, match=r"is gelu by open_clip_config.json, but the comparison .* says quick_gelu"):
        load_published(folder, base=base)
    converted = load_published(folder, base=base, hidden_act="quick_gelu", unchecked=True)
    assert converted.config["text_config"]["hidden_act"] == "quick_gelu"


def test_heads_that_nothing_tells(tmp_path):
    torch.save(OriginalCLIP("gelu", vision=(96, 4, 2)).state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="a width of 96 is no multiple of 64. Put its open_clip_config.json"):
        load_published(tmp_path / "model.pt", hidden_act="gelu")


def test_things_that_are_no_checkpoint(tmp_path, tiny_checkpoint):
    with pytest.raises(ValueError, match="Not a format that is known: the first names are 'fc.weight'"):
        detect_format({"fc.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="no tensors at all"):
        detect_format({"epoch": 1})
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds a list, and a dict of tensors is needed"):
        load_published(tmp_path / "list.pt")
    with pytest.raises(ValueError, match="is no file of weights"):
        load_published(tiny_checkpoint / "config.json")
    with pytest.raises(ValueError, match="give a file, a folder, a Hub id, or OWNER/NAME/FILE"):
        load_published(str(tmp_path / "nowhere"))
    torch.save({}, tmp_path / "second.pt")
    with pytest.raises(ValueError, match=r"weights there: list.pt, second.pt. Give one file"):
        load_published(tmp_path)


def test_a_config_of_another_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    save_file({"logit_scale": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="is no CLIP: its config.json says model_type 'siglip'"):
        load_published(tmp_path)


def test_a_missing_shard_and_a_changed_shape(tmp_path, tiny_checkpoint):
    CLIPModel.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path, max_shard_size="20KB")
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 48
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"mlp.fc1.* has shape \(32.*\), and its config asks for \(48"):
        load_published(tmp_path)
    sorted(tmp_path.glob("*.safetensors"))[1].unlink()
    with pytest.raises(ValueError, match=r"lacks model-00002-of-\d+.safetensors, one of \d+ parts"):
        load_published(tmp_path)


def test_no_tokenizer(source, base, tmp_path):
    for file in source.glob("*token*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"No tokenizer for .* Give a base, .* such as openai/clip-vit-base-patch32"):
        convert_checkpoint(load_published(source), tmp_path / "out", "huggingface")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_tokenizer_that_is_too_large(tmp_path):
    folder = write_open_clip(tmp_path / "source", OriginalCLIP("gelu", vocab=520), "gelu")
    with pytest.raises(ValueError, match="has 527 tokens, and its text tower 520"):
        convert_checkpoint(load_published(folder), tmp_path / "out", "huggingface")


def test_a_folder_with_something_in_it(source, base):
    with pytest.raises(ValueError, match="is not empty; give a new folder"):
        convert_checkpoint(load_published(source), base, "huggingface")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zw123/delta_clip_l14_224", "is known and cannot be loaded: no ln_pre and BERT-tokenised text"),
        ("hf-hub:chs20/FARE4-convnext_base_w-laion2B-s13B-b82K-augreg", "cannot be loaded: a ConvNeXt tower"),
        ("rn50_eps1.pth.tar", "cannot be loaded: a ResNet tower"),
        ("fare_eps_4.pt", r"is no file here. It is known \(FARE, ViT-L/14\): the authors' Nextcloud, dead by 2026-05"),
    ],
)
def test_what_the_registry_knows_is_not_downloaded(name, message):
    with pytest.raises(ValueError, match=message):
        load_published(name)
