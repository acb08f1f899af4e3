"""A robust tower inside small, randomly initialised LLaVAs: what they see is what the robust model sees."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    SiglipVisionConfig,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from robust_clip import PGD, ThreatModel, swap_vision_tower
from robust_clip.attacks import LOSSES, sample_generators
from robust_clip.attacks.embedding import EmbeddingDistance
from robust_clip.models import PromptedCLIPModel, PromptSizes, RobustCLIPModel

TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**TOWER, "image_size": 16, "patch_size": 8, "projection_dim": 8}
TEXT = {**TOWER, "num_hidden_layers": 1, "vocab_size": 40}
IMAGE = 39  # the token that patches take the place of


def llava(vision=None, config=LlavaConfig, model=LlavaForConditionalGeneration, **settings):
    vision = CLIPVisionConfig(**{**VISION, **vision}) if isinstance(vision, dict) else vision
    vision = vision or CLIPVisionConfig(**VISION)
    settings = {"vision_feature_layer": -2, "image_seq_length": 4, **settings}
    text = LlamaConfig(**TEXT, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return model(config(vision_config=vision, text_config=text, image_token_index=IMAGE, **settings)).eval()


def patches(robust, pixels, layer=-2):
    states = robust.vision_model(robust.preprocess(pixels), output_hidden_states=True).hidden_states
    return states[layer][:, 1:]


@torch.no_grad()
def test_image_features_become_those_of_the_robust_tower(tiny_model):
    vlm, pixels = llava(), torch.rand(3, 3, 16, 16)
    expected = vlm.model.multi_modal_projector(patches(tiny_model, pixels))

    def features():
        return torch.stack(vlm.get_image_features(tiny_model.preprocess(pixels)).pooler_output)

    assert not torch.allclose(features(), expected, atol=1e-3)
    assert swap_vision_tower(vlm, tiny_model) is vlm
    torch.testing.assert_close(features(), expected)


@pytest.mark.parametrize(
    ("config", "model", "layers"),
    [
        (LlavaNextConfig, LlavaNextForConditionalGeneration, -2),
        (VipLlavaConfig, VipLlavaForConditionalGeneration, [-2, 1, 0]),
    ],
)
@torch.no_grad()
def test_relatives_of_llava_take_the_tower(tiny_checkpoint, tiny_model, config, model, layers):
    vlm, pixels = llava(config=config, model=model, vision_feature_layer=layers), torch.rand(2, 3, 16, 16)
    swap_vision_tower(vlm, tiny_checkpoint)
    states = vlm.model.vision_tower(tiny_model.preprocess(pixels), output_hidden_states=True).hidden_states
    for layer in (-2, 0):
        torch.testing.assert_close(states[layer][:, 1:], patches(tiny_model, pixels, layer))


def test_the_rest_of_the_model_and_what_learns_stay(tiny_model):
    vlm = llava().bfloat16()
    vlm.model.vision_tower.requires_grad_(False)
    before = {name: weight.clone() for name, weight in vlm.state_dict().items()}
    swap_vision_tower(vlm, tiny_model)
    for name, weight in vlm.state_dict().items():
        source = tiny_model.vision_model.state_dict().get(name.removeprefix("model.vision_tower."))
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, before[name] if source is None else source.bfloat16()), name
    assert not any(weight.requires_grad for weight in vlm.model.vision_tower.parameters())
    assert vlm.lm_head.weight.requires_grad
    assert tiny_model.dtype == torch.float32


def test_an_attack_reaches_the_pixels_through_the_swapped_tower(tiny_model):
    """On the features of the tower, and on the next word that the whole model says."""
    vlm = swap_vision_tower(llava(), tiny_model)
    pixels, threat_model = 0.2 + 0.6 * torch.rand(2, 3, 16, 16), ThreatModel("linf", "8/255")
    words = torch.tensor([[1, *[IMAGE] * 4, 5, 6]]).expand(2, -1)

    def features(pixels):
        return torch.stack(vlm.get_image_features(tiny_model.preprocess(pixels)).pooler_output).flatten(1)

    def next_word(pixels):
        return vlm(input_ids=words, pixel_values=tiny_model.preprocess(pixels)).logits[:, -1]

    with torch.no_grad():
        losses = {features: EmbeddingDistance(features(pixels))}
        losses[next_word] = LOSSES["cross_entropy"](next_word(pixels).argmax(-1))
    noisy = (pixels + 8 / 255 * torch.randn_like(pixels).sign()).clamp(0, 1)
    for forward, loss in losses.items():
        adversarial = PGD(steps=10)(forward, pixels, loss, threat_model, sample_generators(0, range(2)))
        with torch.no_grad():
            clean, random, attacked = (loss(forward(images)) for images in (pixels, noisy, adversarial))
        assert (attacked - clean > 2 * (random - clean).abs()).all(), forward.__name__


def test_stock_transformers_saves_and_loads_the_robust_tower(tiny_model, tmp_path):
    tiny_model.config.robustness = {"objective": "TeCoA"}
    swap_vision_tower(llava(), tiny_model).save_pretrained(tmp_path)
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    theirs = loaded.model.vision_tower.state_dict()
    for name, weight in tiny_model.vision_model.state_dict().items():
        assert torch.equal(theirs[name], weight), name
    assert loaded.config.vision_config.robustness == {"objective": "TeCoA"}


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"hidden_size": 32}, "hidden_size is 32 in the vision-language model and 16 in the robust one"),
        ({"patch_size": 4}, "patch_size is 4 .* and 8 in"),
        ({"image_size": 24}, "image_size is 24 .* and 16 in"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3 .* and 2 in"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu .* and quick_gelu in"),
        ({"num_attention_heads": 4}, "num_attention_heads is 4 .* and 2 in"),
        ({"image_size": 24, "hidden_act": "gelu"}, "image_size is 24 .*; hidden_act is gelu"),
    ],
)
def test_a_tower_of_another_architecture_is_refused_with_both_values(tiny_model, vision, message):
    with pytest.raises(ValueError, match=message):
        swap_vision_tower(llava(vision), tiny_model)


def test_a_square_may_be_written_as_two_sides(tiny_model):
    tiny_model.config.vision_config.image_size = [16, 16]
    swap_vision_tower(llava(), tiny_model)


def test_a_layer_that_is_not_there_is_refused(tiny_model):
    vlm = llava()
    vlm.config.vision_feature_layer = -4
    with pytest.raises(ValueError, match="vision_feature_layer is -4, but the tower has 2 layers; it must be from -3"):
        swap_vision_tower(vlm, tiny_model)


def test_what_is_no_llava_or_has_no_clip_tower_is_refused(tiny_model):
    with pytest.raises(ValueError, match="RobustCLIPModel is no LLaVA-style model"):
        swap_vision_tower(tiny_model, tiny_model)
    siglip = SiglipVisionConfig(**TOWER, image_size=16, patch_size=8)
    with pytest.raises(ValueError, match="exactly one CLIP image tower .* found a tower of type 'siglip"):
        swap_vision_tower(llava(siglip), tiny_model)
    with pytest.raises(ValueError, match="must be a RobustCLIPModel, a folder or a Hub id, got CLIPVisionModel"):
        swap_vision_tower(llava(), tiny_model.vision_model)


def test_the_processors_normalisation_is_compared(tiny_model, tiny_processor):
    swap_vision_tower(llava(), tiny_model, tiny_processor)
    tiny_model.config.image_std = [0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match=r"image_std is \(0.268.* and \[0.5, 0.5, 0.5\] in the robust model"):
        swap_vision_tower(llava(), tiny_model, tiny_processor.image_processor)


def test_prompts_and_adapters_are_refused_in_either_tower(tiny_model, tiny_checkpoint):
    framed = PromptedCLIPModel.around(tiny_model, PromptSizes(frame=2))
    with pytest.raises(ValueError, match="frame.* only in the robust one, nothing only .* prompts cannot move"):
        swap_vision_tower(llava(), framed)
    lora, vlm = LoraConfig(target_modules=["q_proj"]), llava()
    adapted = RobustCLIPModel.from_pretrained(tiny_checkpoint)
    get_peft_model(vlm.model.vision_tower, lora)
    with pytest.raises(ValueError, match="q_proj.bias only in the robust one, .*q_proj.base_layer.* Merge adapters"):
        swap_vision_tower(vlm, tiny_model)
    merged = get_peft_model(adapted, lora)
    with pytest.raises(ValueError, match="q_proj.base_layer.* only in the robust one, .*q_proj.bias only in"):
        swap_vision_tower(llava(), adapted)
    swap_vision_tower(llava(), merged.merge_and_unload())


def test_weights_that_cannot_be_overwritten_are_refused(tiny_model):
    with torch.device("meta"):
        elsewhere = llava()
    with pytest.raises(ValueError, match="is not in memory, not a plain weight"):
        swap_vision_tower(elsewhere, tiny_model)
    quantised = llava()
    layer = quantised.model.vision_tower.encoder.layers[0].mlp.fc1
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"fc1.weight .* is torch.int8 of shape \(32, 16\), not a plain weight"):
        swap_vision_tower(quantised, tiny_model)
