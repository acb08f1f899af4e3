"""Adapters: what learns, what stays, what stock peft makes of the files, and what is refused."""

import copy
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from transformers import CLIPModel

from robust_clip.adaptation.lora import LINEAR_LAYERS, LoRA, PeftMethod
from robust_clip.models import RobustCLIPModel

PIXELS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
METHODS = ["LOHA", "LOKR", "OFT", "HRA", "DELORA"]


def trained(model: RobustCLIPModel) -> RobustCLIPModel:
    """The model with adapters as if they had learned."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) / 4)
    return model


@pytest.mark.parametrize(
    ("adaptation", "expected"),
    [
        (LoRA(), {("vision_model", name) for name in LINEAR_LAYERS}),
        (LoRA(["text"], ["q_proj"]), {("text_model", "q_proj")}),
        (
            LoRA(["vision", "text"], ["v_proj", "visual_projection"]),
            {("vision_model", "v_proj"), ("text_model", "v_proj"), ("visual_projection", "visual_projection")},
        ),
    ],
    ids=["image tower", "queries of the text tower", "both towers and a projection"],
)
def test_exactly_the_named_layers_get_weights_that_learn(tiny_model, adaptation, expected):
    assert adaptation.apply(tiny_model) is tiny_model
    learning = [name.split(".") for name, parameter in tiny_model.named_parameters() if parameter.requires_grad]
    assert {part for name in learning for part in name if part.startswith("lora_")} == {"lora_A", "lora_B"}
    assert {(name[0], name[name.index("lora_A") - 1]) for name in learning if "lora_A" in name} == expected
    # Every block of a tower, not only one.
    blocks = {name[3] for name in learning if name[1] == "encoder"}
    assert blocks == {"0", "1"}


@pytest.mark.parametrize(
    "adaptation",
    [LoRA(), LoRA(peft_config={"use_dora": True}), *(PeftMethod(peft_config={"peft_type": each}) for each in METHODS)],
    ids=str,
)
def test_with_the_adapter_off_the_model_is_the_original(tiny_model, adaptation):
    original = tiny_model.encode_image(PIXELS)
    adapted = trained(adaptation.apply(tiny_model))
    assert not torch.allclose(adapted.encode_image(PIXELS), original, atol=1e-3)
    adapted.disable_adapters()
    assert torch.equal(adapted.encode_image(PIXELS), original)


def test_an_adapter_is_loaded_by_stock_peft_on_stock_clip(tiny_model, tiny_checkpoint, tmp_path):
    adapted = trained(LoRA(r=2).apply(tiny_model)).eval()
    adapted.save_pretrained(tmp_path)
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert size < (tiny_checkpoint / "model.safetensors").stat().st_size
    stock = PeftModel.from_pretrained(CLIPModel.from_pretrained(tiny_checkpoint), tmp_path).eval()
    tokens = {"input_ids": torch.tensor([[1, 5, 2]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    with torch.no_grad():
        theirs = stock(pixel_values=adapted.preprocess(PIXELS), **tokens).logits_per_image
        ours = adapted(pixel_values=adapted.preprocess(PIXELS), **tokens).logits_per_image
    assert torch.equal(theirs, ours)
    merged = PeftModel.from_pretrained(RobustCLIPModel.from_pretrained(tiny_checkpoint), tmp_path).merge_and_unload()
    assert torch.allclose(merged.encode_image(PIXELS), adapted.encode_image(PIXELS), atol=1e-5)


def test_stock_libraries_do_not_import_ours(tiny_model, tiny_checkpoint, tmp_path):
    adapted = trained(LoRA(r=2).apply(tiny_model)).eval()
    adapted.save_pretrained(tmp_path)
    code = f"""
import sys
import torch
from peft import PeftModel
from transformers import CLIPModel
model = PeftModel.from_pretrained(CLIPModel.from_pretrained({str(tiny_checkpoint)!r}), {str(tmp_path)!r}).eval()
with torch.no_grad():
    print(model.get_image_features(pixel_values=torch.full((1, 3, 16, 16), 0.25)).pooler_output[0].tolist())
assert not any(name.startswith("robust_clip") for name in sys.modules)
"""
    told = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    with torch.no_grad():
        ours = adapted.get_image_features(pixel_values=torch.full((1, 3, 16, 16), 0.25)).pooler_output[0]
    assert torch.allclose(torch.tensor(eval(told.splitlines()[-1])), ours, atol=1e-5)


def test_several_adapters_are_switched_on_one_base(tiny_model, tiny_checkpoint, tmp_path):
    """One for each epsilon, say."""
    expected = {}
    for name, seed in (("eps1", 1), ("eps4", 4)):
        model = LoRA(r=2).apply(RobustCLIPModel.from_pretrained(tiny_checkpoint))
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))
        model.save_pretrained(tmp_path / name)
        expected[name] = model.eval().encode_image(PIXELS)
        tiny_model.load_adapter(str(tmp_path / name), adapter_name=name)
    for name in ("eps1", "eps4", "eps1"):
        tiny_model.set_adapter(name)
        assert torch.equal(tiny_model.eval().encode_image(PIXELS), expected[name])


def test_a_model_with_an_adapter_goes_on_with_it(tiny_model, tiny_checkpoint, tmp_path):
    adapted = trained(LoRA(r=2).apply(tiny_model))
    adapted.save_pretrained(tmp_path)
    again = LoRA(r=2).apply(RobustCLIPModel.from_pretrained(tmp_path))
    assert torch.equal(again.encode_image(PIXELS), adapted.encode_image(PIXELS))
    names = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in again.named_parameters() if parameter.requires_grad} == names
    others = [LoRA(r=3), LoRA(r=2, peft_config={"use_dora": True}), LoRA(r=2, towers=["text"])]
    for other in (*others, PeftMethod(peft_config={"peft_type": "LOHA"})):
        with pytest.raises(ValueError, match="comes with the adapter"):
            other.apply(RobustCLIPModel.from_pretrained(tmp_path))


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_methods_that_change_the_base_are_refused(tiny_model, kind):
    with pytest.raises(ValueError, match="changes the weights of vision_model"):
        LoRA(r=2, peft_config={"init_lora_weights": kind}).apply(tiny_model)


def test_names_that_match_nothing_are_refused_with_near_ones(tiny_model):
    before = copy.deepcopy(tiny_model.state_dict())
    with pytest.raises(ValueError, match=r"'qproj'.* did you mean .*q_proj"):
        LoRA(target_modules=["v_proj", "qproj"]).apply(tiny_model)
    with pytest.raises(ValueError, match="'visual_projection'.*the text tower"):
        LoRA(["text"], ["visual_projection"]).apply(tiny_model)
    assert tiny_model.state_dict().keys() == before.keys()


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: LoRA(["audio"]), "towers must be some of vision, text"),
        (lambda: LoRA(target_modules="q_proj"), "target_modules must be a list"),
        (lambda: LoRA(target_modules=[]), "target_modules must be a list"),
        (lambda: LoRA(r=0), "positive integer, got 0"),
        (lambda: LoRA(peft_config={"rank": 4}), "peft refuses .*rank"),
        (lambda: LoRA(peft_config={"r": 4}), r"further arguments, not \['r'\]"),
        (lambda: LoRA(peft_config={"peft_type": "LOHA"}), "further arguments"),
        (lambda: PeftMethod(), "needs a peft_type"),
        (lambda: PeftMethod(peft_config={"peft_type": "LOLA"}), "no method 'LOLA'; it has .*LOHA"),
        (lambda: PeftMethod(peft_config={"peft_type": "PROMPT_TUNING"}), "peft refuses"),
    ],
)
def test_bad_arguments_are_refused(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()
