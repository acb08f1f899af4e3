"""A revision names the weights that were measured, on disk or in memory."""

import copy
import hashlib

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from robust_clip.adaptation import LoRA
from robust_clip.evaluation import checkpoint_revision, weights_revision
from robust_clip.evaluation.revision import describe_model
from robust_clip.models import PromptedCLIPModel, PromptSizes


def test_a_directory_has_the_digest_of_its_file(model, trained_checkpoint):
    digest = hashlib.sha256((trained_checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert checkpoint_revision(str(trained_checkpoint), model) == f"sha256:{digest}"


def test_every_shard_counts(model, tmp_path):
    revisions = set()
    for shards in [(b"a", b"b"), (b"a", b"c"), (b"c", b"b")]:
        for number, content in enumerate(shards):
            (tmp_path / f"model-{number}.safetensors").write_bytes(content)
        revisions.add(checkpoint_revision(str(tmp_path), model))
    assert len(revisions) == 3


def test_a_hub_id_has_its_commit(model):
    model.config._commit_hash = "abc123"
    assert checkpoint_revision("owner/model", model) == "abc123"


def test_weights_in_memory_change_with_any_of_them(model):
    before = weights_revision(model)
    assert checkpoint_revision("owner/model", model) == before == weights_revision(model)
    with torch.no_grad():
        model.logit_scale.mul_(1 + 1e-6)
    assert weights_revision(model) != before


def test_the_scale_of_an_adapter_is_no_weight_and_is_told(tokenizer, model):
    told = []
    for lora_alpha in (4, 8):
        adapted = LoRA(r=2, lora_alpha=lora_alpha).apply(copy.deepcopy(model))
        told.append(describe_model(adapted, tokenizer)["settings"]["adapter_scales"])
    assert [scale for ((_, scale),) in told] == [2, 4]
    assert "adapter_scales" not in describe_model(model, tokenizer)["settings"]


def test_which_layer_has_which_scale_is_told(tokenizer, model):
    told = []
    for strong in ("q_proj", "v_proj"):
        adapted = LoRA(r=2, lora_alpha=2).apply(copy.deepcopy(model))
        for name, module in adapted.named_modules():
            if name.endswith(strong) and isinstance(module, BaseTunerLayer):
                module.set_scale("default", 2)
        told.append(describe_model(adapted, tokenizer)["settings"])
    assert told[0]["adapter_scales"] == told[1]["adapter_scales"] == [["default", 1.0], ["default", 2.0]]
    assert told[0]["adapter_scales_of_layers"] != told[1]["adapter_scales_of_layers"]


def test_where_a_learned_context_puts_class_names_is_told(tokenizer, model):
    places = (PromptSizes(context=2, class_position=place) for place in ("end", "middle"))
    told = [describe_model(PromptedCLIPModel.around(copy.deepcopy(model), sizes), tokenizer) for sizes in places]
    first, second = (each["settings"].pop("prompts") for each in told)
    assert first != second
    assert told[0]["settings"] == told[1]["settings"] == describe_model(model, tokenizer)["settings"]


def test_half_precision_weights_have_a_revision(model):
    assert weights_revision(model.bfloat16()).startswith("memory-sha256:")
