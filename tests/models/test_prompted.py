"""A model with prompts: whose weights it shares, how it is saved and loaded, and what is refused."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, CLIPModel, pipeline

from robust_clip.models import (
    PromptedCLIPModel,
    PromptSizes,
    RobustCLIPModel,
    ZeroShotClassifier,
    embed_classes,
    load_checkpoint,
)
from robust_clip.models.scratch import build_clip

NAMES = ["red", "green", "blue"]
EVERYTHING = PromptSizes(frame=3, patch=4, tokens=2, context=3, depth=2)


@pytest.fixture
def prompted(tiny_model):
    """Prompts of all kinds that are no longer as they were drawn."""
    model = PromptedCLIPModel.around(tiny_model, EVERYTHING)
    with torch.no_grad():
        for _, prompt in model.prompts():
            prompt += torch.randn_like(prompt)
    model.config.robustness = {"objective": "FAP"}
    return model


@torch.no_grad()
def logits(model, processor, templates=("{}.",)):
    pixels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    return ZeroShotClassifier(model, embed_classes(model, processor.tokenizer, NAMES, templates))(pixels)


def test_the_base_is_shared_and_left_as_it_was(tiny_model, tiny_processor):
    before = logits(tiny_model, tiny_processor)
    model = PromptedCLIPModel.around(tiny_model, EVERYTHING)
    assert torch.equal(logits(tiny_model, tiny_processor), before)
    assert not torch.allclose(logits(model, tiny_processor), before, atol=1e-3)
    ours, theirs = dict(model.named_parameters()), dict(tiny_model.named_parameters())
    assert all(ours[name] is weight for name, weight in theirs.items())
    assert ours.keys() - theirs.keys() == {name for name, _ in model.prompts()}
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    base = model.as_base()
    assert type(base) is RobustCLIPModel
    assert torch.equal(logits(base, tiny_processor), before)
    assert dict(base.named_parameters()).keys() == theirs.keys()


def test_the_first_values_depend_on_the_seed_alone(tiny_model):
    def drawn(seed):
        return torch.cat([p.flatten() for _, p in PromptedCLIPModel.around(tiny_model, EVERYTHING, seed).prompts()])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    model = PromptedCLIPModel.around(tiny_model, EVERYTHING)
    scales = {name: prompt.std().item() for name, prompt in model.prompts()}
    assert scales["vision_model.embeddings.frame.up"] == pytest.approx(1, rel=0.2)
    assert scales["vision_model.embeddings.tokens"] == pytest.approx(0.02, rel=0.4)
    shallow = PromptedCLIPModel.around(tiny_model, PromptSizes(tokens=2)).vision_model.embeddings.tokens
    assert (scales["text_model.embeddings.context"], shallow.std().item()) == pytest.approx((0.02, 1), rel=0.4)


def test_prompts_alone_restore_the_logits(prompted, tiny_processor, tiny_checkpoint, tmp_path):
    prompted.save_prompts(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"prompts.safetensors", "prompts_config.json"}
    assert load_file(tmp_path / "prompts.safetensors").keys() == {name for name, _ in prompted.prompts()}
    settings = json.loads((tmp_path / "prompts_config.json").read_text())
    assert settings["base"]["name"] == str(tiny_checkpoint)
    restored = PromptedCLIPModel.from_pretrained(tmp_path)
    torch.testing.assert_close(
        logits(restored, tiny_processor), logits(prompted, tiny_processor), rtol=0, atol=1e-6
    )
    assert restored.config.robustness == {"objective": "FAP"}
    assert not restored.training
    assert restored.name_or_path == str(tmp_path)
    half = PromptedCLIPModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in half.parameters()} == {torch.bfloat16}


def test_a_whole_model_restores_the_logits_in_every_way(prompted, tiny_processor, tmp_path):
    prompted.save_pretrained(tmp_path)
    expected = logits(prompted, tiny_processor)
    loaders = (PromptedCLIPModel, AutoModel, AutoModelForZeroShotImageClassification)
    for loader in loaders:
        restored = loader.from_pretrained(tmp_path)
        assert type(restored) is PromptedCLIPModel
        assert torch.equal(logits(restored, tiny_processor), expected)
        assert restored.config.robustness == {"objective": "FAP"}
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.model_type, config.architectures) == ("prompted_clip", ["PromptedCLIPModel"])
    _, report = PromptedCLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_load_checkpoint_takes_either_and_finds_the_processor(prompted, tiny_processor, tmp_path):
    prompted.save_prompts(tmp_path / "prompts")
    prompted.save_pretrained(tmp_path / "whole")
    tiny_processor.save_pretrained(tmp_path / "whole")
    for folder in ("prompts", "whole"):
        model, processor = load_checkpoint(str(tmp_path / folder))
        torch.testing.assert_close(logits(model, processor), logits(prompted, tiny_processor), rtol=0, atol=1e-6)


def test_the_zero_shot_pipeline_gives_our_probabilities(prompted, tiny_processor, tmp_path):
    prompted.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    array = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    pixels = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255
    embeds = embed_classes(prompted, tiny_processor.tokenizer, NAMES, ["{}."])
    expected = ZeroShotClassifier(prompted, embeds)(pixels).softmax(dim=1)[0]
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path), device="cpu")
    answers = classify(Image.fromarray(array), candidate_labels=NAMES, hypothesis_template="{}.")
    scores = {answer["label"]: answer["score"] for answer in answers}
    assert [scores[name] for name in NAMES] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_context_for_each_class_comes_back_with_its_names(tiny_model, tiny_processor, tmp_path):
    forms = [(n, [tiny_processor.tokenizer(f"{n}.", add_special_tokens=False)["input_ids"]]) for n in NAMES]
    model = PromptedCLIPModel.around(tiny_model, PromptSizes(context=2, class_tokens=forms))
    model.save_pretrained(tmp_path / "whole")
    model.save_prompts(tmp_path / "prompts")
    for folder in ("whole", "prompts"):
        restored = PromptedCLIPModel.from_pretrained(tmp_path / folder)
        assert torch.equal(logits(restored, tiny_processor), logits(model, tiny_processor))


def adapted(model):
    model.add_adapter(LoraConfig(r=2, target_modules=r"vision_model.*\.(q_proj|v_proj)", init_lora_weights=False))
    return model


def test_an_adapter_can_be_added_and_both_learn_and_come_back(prompted, tiny_processor, tmp_path):
    without, expected = logits(prompted, tiny_processor), logits(adapted(prompted), tiny_processor)
    assert not torch.allclose(expected, without, atol=1e-3)
    for _, prompt in prompted.prompts():
        prompt.requires_grad_(True)
    (prompted.encode_image(torch.rand(2, 3, 16, 16)).sum()).backward()
    learned = {name for name, p in prompted.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {name for name, _ in prompted.prompts("vision")} < learned
    assert any("lora_A" in name for name in learned)
    assert not any("base_layer" in name for name in learned)
    prompted.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*model.safetensors"))
    restored = PromptedCLIPModel.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(restored, tiny_processor), expected, rtol=0, atol=1e-6)
    restored.disable_adapters()
    torch.testing.assert_close(logits(restored, tiny_processor), without, rtol=0, atol=1e-6)
    (tmp_path / "adapter").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="holds no adapter of peft"):
        PromptedCLIPModel.from_pretrained(tmp_path)


def test_another_base_of_these_widths_is_warned_of_with_both_digests(prompted, tiny_checkpoint, tmp_path, caplog):
    prompted.save_prompts(tmp_path / "prompts")
    other = RobustCLIPModel.from_pretrained(tiny_checkpoint)
    with torch.no_grad():
        other.visual_projection.weight += 1e-3
    other.save_pretrained(tmp_path / "other")
    with caplog.at_level(logging.WARNING, logger="robust_clip"):
        model = PromptedCLIPModel.from_pretrained(tmp_path / "prompts", base=str(tmp_path / "other"))
        first, second = prompted.config.base["weights"], model.config.base["weights"]
    assert first != second
    assert first in caplog.text
    assert second in caplog.text
    caplog.clear()
    shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    for base in (str(tmp_path / "copy"), RobustCLIPModel.from_pretrained(tiny_checkpoint, dtype=torch.float32)):
        PromptedCLIPModel.from_pretrained(tmp_path / "prompts", base=base)
    assert "learned on" not in caplog.text


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (PromptSizes(tokens=2), r"vision_model.embeddings.tokens is 16 wide, .* this base needs 24"),
        (PromptSizes(context=2), r"text_model.embeddings.context is 16 wide, .* this base needs 24"),
        (PromptSizes(frame=2), r"frame.up is 16 wide, .* this base needs 32"),
        (PromptSizes(patch=2, tokens=1, depth=2), "depth is 2, but the vision tower has 1 layers"),
    ],
    ids=["tokens", "context", "frame", "depth"],
)
def test_prompts_of_another_width_are_refused_with_both_numbers(tiny_model, tmp_path, sizes, message):
    tower = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    wider, _ = build_clip([], vision_config={**tower, "image_size": 32, "patch_size": 8}, text_config=tower)
    PromptedCLIPModel.around(tiny_model, sizes).save_prompts(tmp_path)
    with pytest.raises(ValueError, match=message):
        PromptedCLIPModel.from_pretrained(tmp_path, base=wider)


def test_plain_clip_does_not_take_prompts_without_a_word(prompted, tiny_checkpoint, tmp_path, caplog):
    prompted.save_prompts(tmp_path / "prompts")
    prompted.save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="learned prompts alone.*PromptedCLIPModel.from_pretrained"):
        RobustCLIPModel.from_pretrained(tmp_path / "prompts")
    with pytest.raises(ValueError, match="has learned prompts.*PromptedCLIPModel.from_pretrained"):
        RobustCLIPModel.from_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="has no learned prompts.*RobustCLIPModel.from_pretrained"):
        PromptedCLIPModel.from_pretrained(tiny_checkpoint)
    with pytest.raises(OSError, match="model.safetensors"):
        CLIPModel.from_pretrained(tmp_path / "prompts")
    _, report = CLIPModel.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert set(report["unexpected_keys"]) == {name for name, _ in prompted.prompts()}


def test_a_base_that_has_changed_is_not_left_out_of_what_is_saved(prompted, tmp_path):
    recorded = prompted.config.base["weights"]
    with torch.no_grad():
        prompted.text_projection.weight += 1
    with pytest.raises(ValueError, match=f"has changed .*{recorded} then.*use save_pretrained"):
        prompted.save_prompts(tmp_path)


def test_prompts_are_replaced_by_those_of_a_folder_of_the_same_sizes(prompted, tiny_model, tiny_processor, tmp_path):
    prompted.save_prompts(tmp_path)
    model = PromptedCLIPModel.around(tiny_model, EVERYTHING)
    model.load_prompts(tmp_path)
    assert torch.equal(logits(model, tiny_processor), logits(prompted, tiny_processor))
    with pytest.raises(ValueError, match="holds prompts .*'frame': 3.*but this model has {'tokens': 2}"):
        PromptedCLIPModel.around(tiny_model, PromptSizes(tokens=2)).load_prompts(tmp_path)
    with pytest.raises(ValueError, match="holds no prompts alone"):
        model.load_prompts(tmp_path.parent)


@pytest.mark.parametrize("damage", ["truncated", "renamed", "no weights", "no base"])
def test_damaged_prompts_are_refused(prompted, tmp_path, damage):
    prompted.save_prompts(tmp_path)
    weights, config = tmp_path / "prompts.safetensors", tmp_path / "prompts_config.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-50])
    elif damage == "renamed":
        tensors = load_file(weights)
        tensors["vision_model.embeddings.token"] = tensors.pop("vision_model.embeddings.tokens")
        save_file(tensors, weights)
    elif damage == "no weights":
        weights.unlink()
    else:
        config.write_text('{"prompts": {"frame": 3}}')
    with pytest.raises(ValueError, match="(damaged|no prompts.safetensors)"):
        PromptedCLIPModel.from_pretrained(tmp_path)


def test_whole_models_without_their_prompts_are_refused(prompted, tmp_path):
    prompted.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["vision_model.embeddings.tokens"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks the weights .*embeddings.tokens"):
        PromptedCLIPModel.from_pretrained(tmp_path)


def test_a_base_that_cannot_be_is_refused(prompted, tiny_model, tmp_path):
    with pytest.raises(ValueError, match="has prompts or an adapter already"):
        PromptedCLIPModel.around(prompted, PromptSizes(frame=2))
    with pytest.raises(ValueError, match="has prompts or an adapter already"):
        PromptedCLIPModel.around(adapted(tiny_model), PromptSizes(frame=2))
    with pytest.raises(ValueError, match="has an adapter"):
        adapted(prompted).as_base()


def test_a_whole_model_takes_no_base(prompted, tiny_model, tmp_path):
    prompted.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="leave out base"):
        PromptedCLIPModel.from_pretrained(tmp_path, base=tiny_model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame": 8}, "leaves nothing of an image of 16 pixels"),
        ({"patch": 17}, "larger than the image, which has 16"),
        ({"tokens": 2, "depth": 3}, "depth is 3, but the vision tower has 2 layers"),
        ({"context": 75}, "A context of 75 leaves no room"),
        ({"tokens": -1}, "tokens must be a whole number from 0 on, got -1"),
        ({"frame": 2.5}, "frame must be a whole number"),
        ({"frame": 2, "depth": 2}, "repeats tokens or context, but there are neither"),
        ({"context": 2, "depth": 2, "class_position": "middle"}, "one for all classes, with class_position end"),
        ({"context": 2, "class_position": "front"}, "class_position must be end or middle, got 'front'"),
        ({"tokens": 2, "class_position": "middle"}, "need a context"),
    ],
)
def test_sizes_that_cannot_be_are_refused(tiny_model, settings, message):
    with pytest.raises(ValueError, match=message):
        PromptedCLIPModel.around(tiny_model, PromptSizes(**settings))


def test_an_unknown_kind_of_prompt_is_refused():
    with pytest.raises(ValueError, match="Unknown key 'border' in prompts; allowed: frame"):
        PromptSizes.of({"border": 3})
