"""`RobustCLIPModel.from_pretrained` of what is no checkpoint of Hugging Face."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from robust_clip.hub import CHECKPOINTS, load_published
from robust_clip.hub.convert import needs_conversion, published_processor
from robust_clip.hub.registry import find_checkpoint
from robust_clip.models import RobustCLIPModel
from tests.hub.hub_answers import Repository
from tests.hub.original_clip import OriginalCLIP
from tests.hub.published_formats import (
    VOCABULARY,
    clean_model,
    model_inputs,
    tuned_model,
    write_base,
    write_open_clip,
)

ACTS = pytest.mark.parametrize("act", ["quick_gelu", "gelu"])


def features_of(model, images):
    """From pixels that are normalised to `images`."""
    with torch.no_grad():
        return model.get_image_features(pixel_values=images).pooler_output


@ACTS
def test_an_open_clip_folder(act, tmp_path):
    original = clean_model(act)
    folder = write_open_clip(tmp_path / "source", original, act)
    model, report = RobustCLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model) is RobustCLIPModel
    assert not model.training
    assert model.name_or_path == str(folder)
    images, ids = model_inputs()
    with torch.no_grad():
        torch.testing.assert_close(
            model(pixel_values=images, input_ids=ids).logits_per_image, original(images, ids), atol=1e-5, rtol=1e-5
        )
    model.save_pretrained(tmp_path / "saved")
    again = CLIPModel.from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(features_of(again, images), features_of(model, images))
    assert RobustCLIPModel.from_pretrained(tmp_path / "saved").config.conversion == model.config.conversion


def test_precision_and_pixel_statistics_are_chosen_as_ever(tmp_path):
    folder = write_open_clip(tmp_path / "source", clean_model("gelu"), "gelu")
    model = RobustCLIPModel.from_pretrained(folder, dtype=torch.bfloat16, image_mean=[0.5] * 3)
    assert model.dtype == torch.bfloat16
    assert model.config.image_mean == [0.5] * 3
    with pytest.raises(ValueError, match="has to be converted, which gives its own config; leave that out"):
        RobustCLIPModel.from_pretrained(folder, config=model.config)


@ACTS
def test_an_image_tower_in_a_file(act, tmp_path):
    tuned, base = tuned_model(act), write_base(tmp_path, act)
    torch.save(tuned.visual.state_dict(), tmp_path / "tower.pt")
    with pytest.raises(ValueError, match="an image tower and no text tower"):
        RobustCLIPModel.from_pretrained(tmp_path / "tower.pt")
    model = RobustCLIPModel.from_pretrained(tmp_path / "tower.pt", base=base, hidden_act=act)
    images, _ = model_inputs()
    with torch.no_grad():
        torch.testing.assert_close(features_of(model, images), tuned.visual(images), atol=1e-5, rtol=1e-5)
    assert model.config.conversion["base"] == "base"


@ACTS
def test_an_image_tower_of_hugging_face(act, tmp_path):
    tuned, base = tuned_model(act), write_base(tmp_path, act)
    torch.save(tuned.visual.state_dict(), tmp_path / "tower.pt")
    whole = RobustCLIPModel.from_pretrained(tmp_path / "tower.pt", base=base, hidden_act=act)
    (tmp_path / "vision").mkdir()
    whole.config.vision_config.save_pretrained(tmp_path / "vision")
    tower = {name: w for name, w in whole.state_dict().items() if name.startswith(("vision_model.", "visual_proj"))}
    save_file(tower, tmp_path / "vision" / "model.safetensors")
    again = RobustCLIPModel.from_pretrained(tmp_path / "vision", base=base)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in whole.state_dict().items())
    assert again.config.vision_config.hidden_act == act


def test_the_processor_of_a_loaded_model(tmp_path):
    folder = write_open_clip(tmp_path / "source", clean_model("gelu"), "gelu")
    model = RobustCLIPModel.from_pretrained(folder)
    processor = published_processor(folder, model.config.to_dict(), revision="main")
    assert processor.tokenizer("a red")["input_ids"][-1] == VOCABULARY - 1
    assert processor.image_processor.crop_size["height"] == model.image_size
    for file in folder.glob("*token*"):
        file.unlink()
    base = write_base(tmp_path, "gelu")
    again = published_processor(folder, model.config.to_dict(), base=base)
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


def test_the_mean_of_open_clip_is_kept(tmp_path):
    statistics = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3]}
    folder = write_open_clip(tmp_path / "source", clean_model("gelu"), "gelu")
    config = folder / "open_clip_config.json"
    config.write_text(config.read_text()[:-1] + f', "preprocess_cfg": {statistics}}}'.replace("'", '"'))
    model = RobustCLIPModel.from_pretrained(folder)
    assert (model.config.image_mean, model.config.image_std) == (statistics["mean"], statistics["std"])


def test_what_needs_conversion_is_told_without_a_network(tmp_path, tiny_checkpoint):
    assert not needs_conversion(tiny_checkpoint)
    assert not needs_conversion("openai/clip-vit-base-patch32")
    assert not needs_conversion("out/run/checkpoint-5")
    assert not needs_conversion("LEAF-CLIP/CLIP-ViT-L-FARE2")
    assert not needs_conversion(tmp_path)
    assert needs_conversion("chs20/fare2-clip")
    assert needs_conversion("hossainzarif19/SimCLIP/simclip4.pt")
    save_file({"conv1.weight": torch.ones(1)}, tmp_path / "alone.safetensors")
    assert needs_conversion(tmp_path)
    assert needs_conversion(tmp_path / "alone.safetensors")


def test_errors_of_what_is_not_there_are_of_the_kind_that_transformers_raises(tmp_path):
    with pytest.raises(ValueError, match="Not a CLIP checkpoint"):
        RobustCLIPModel.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="not in the cache of the Hub, and the Hub may not be asked"):
        RobustCLIPModel.from_pretrained("someone/nothing")


def test_weights_are_what_they_were(tmp_path):
    original = OriginalCLIP("gelu")
    folder = write_open_clip(tmp_path / "source", original, "gelu")
    converted = load_published(folder)
    before = load_file(folder / "open_clip_model.safetensors")
    assert sum(weight.numel() for weight in converted.weights.values()) == sum(w.numel() for w in before.values())
    memory = {weight.untyped_storage().data_ptr() for weight in converted.weights.values()}
    assert len(memory) == len(converted.weights)
    key = converted.weights["vision_model.encoder.layers.1.self_attn.k_proj.weight"]
    assert torch.equal(key, original.visual.transformer.resblocks[1].attn.in_proj_weight[128:256])
    assert torch.equal(converted.weights["visual_projection.weight"], original.visual.proj.T)
    assert converted.weights["logit_scale"] == 3.0


def test_the_registry():
    assert all(row.hidden_act in (None, "quick_gelu", "gelu") for row in CHECKPOINTS.values())
    assert all(row.format in ("huggingface", "open_clip", "visual", "tecoa") for row in CHECKPOINTS.values())
    for name, row in CHECKPOINTS.items():
        assert row.refused or "laion" not in name or row.hidden_act == "gelu"
        assert row.refused or row.format == "huggingface" or row.hidden_act or row.unverified
    assert find_checkpoint("hf-hub:chs20/fare4-clip") is CHECKPOINTS["chs20/fare4-clip"]
    assert find_checkpoint("downloads/simclip4.pt") is CHECKPOINTS["hossainzarif19/SimCLIP/simclip4.pt"]
    assert find_checkpoint("someone/fare4-clip") is None


def publish(hub, repository, folder):
    """The files of a folder as a repository of the double; gives its commit."""
    files = {file.name: hub.keep(file.read_bytes()) for file in folder.iterdir()}
    found = hub.repositories[repository] = Repository()
    return found.commit("main", files, "published")


def test_how_it_was_trained_is_on_record_of_known_repositories_alone(hub, tmp_path):
    folder = write_open_clip(tmp_path / "source", tuned_model("gelu"), "gelu")
    known = "chs20/FARE4-ViT-B-32-laion2B-s34B-b79K"
    publish(hub, known, folder)
    record = RobustCLIPModel.from_pretrained(known).config.robustness
    assert (record["objective"], record["threat model"]) == ("FARE", "linf 4/255")
    publish(hub, "someone/fare", folder)
    assert not RobustCLIPModel.from_pretrained("someone/fare").config.robustness
    publish(hub, "LEAF-CLIP/OpenCLIP-ViT-g", folder)
    assert "robustness" not in load_published("LEAF-CLIP/OpenCLIP-ViT-g").config
    torch.save({"vision_encoder_state_dict": tuned_model("quick_gelu").visual.state_dict()}, tmp_path / "FARE.pth.tar")
    base = write_base(tmp_path, "quick_gelu")
    assert "robustness" not in load_published(tmp_path / "FARE.pth.tar", base=base).config


def test_an_open_clip_model_and_a_raw_file_on_the_hub(hub, tmp_path):
    """A repository without config.json is looked at again for what open_clip writes."""
    tuned = tuned_model("quick_gelu")
    commit = publish(hub, "someone/robust", write_open_clip(tmp_path / "source", tuned, "quick_gelu"))
    images, _ = model_inputs()
    for name, options in (("someone/robust", {"revision": commit}), ("hf-hub:someone/robust", {})):
        model = RobustCLIPModel.from_pretrained(name, **options)
        with torch.no_grad():
            torch.testing.assert_close(features_of(model, images), tuned.visual(images), atol=1e-5, rtol=1e-5)
        assert model.config._commit_hash == commit
        assert model.config.conversion["source"] == name

    (tmp_path / "raw").mkdir()
    torch.save(tuned.visual.state_dict(), tmp_path / "raw" / "robust.pt")
    publish(hub, "someone/towers", tmp_path / "raw")
    options = {"base": write_base(tmp_path, "quick_gelu"), "hidden_act": "quick_gelu"}
    model = RobustCLIPModel.from_pretrained("someone/towers/robust.pt", **options)
    with torch.no_grad():
        torch.testing.assert_close(features_of(model, images), tuned.visual(images), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="raw file in that repository, give someone/towers/FILE"):
        load_published("someone/towers")
