"""`open_clip_config.json`: what it says of a model, what of that no CLIPModel can be, and writing it."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

logger = logging.getLogger(__name__)

# Fields that change nothing, or whose effect is seen in the weights.
_READ = {
    "model": {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "custom_text", "init_logit_scale"}
    | {"nonscalar_logit_scale", "output_dict", "cast_dtype"},
    "vision_cfg": {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio", "patch_dropout"}
    | {"norm_kwargs", "output_tokens", "pos_embed_type"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "norm_kwargs"}
    | {"hf_tokenizer_name", "tokenizer_kwargs", "output_tokens", "embed_init_scale", "pad_id", "eos_id"},
}
# Values of other fields that mean what CLIP does.
_AS_IN_CLIP = {"pool_type": ("tok", "argmax"), "proj_type": (None, "none"), "init_logit_bias": (None,)}
_REASONS = {
    "timm_model_name": "a tower of timm (ConvNeXt and others)",
    "hf_model_name": "a BERT-like text tower of Hugging Face",
    "no_ln_pre": "no normalisation before the first block (as DeltaCLIP)",
    "multimodal_cfg": "a CoCa with a text decoder",
    "embed_cls": "a class token in the text tower",
    "no_causal_mask": "text attention in both directions",
    "init_logit_bias": "a logit bias (SigLIP)",
}
_RESIZING = ("bicubic", "shortest")
HEAD_WIDTH = 64  # of every OpenAI CLIP, and what open_clip takes unless its config says otherwise
_TEXT_HEADS, _EPS = 8, 1e-5


def read_open_clip(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What weights do not tell: heads, epsilon of the normalisations, activation and pixel statistics.

    Args:
        config: Content of `open_clip_config.json`.
        source: Named in errors.

    Returns:
        `sizes` (what must agree with the weights), `vision_heads`, `text_heads`, `layer_norm_eps` (one per tower),
        `quick_gelu` (`None` where the field is left out), `image_mean`, `image_std`.

    Raises:
        ValueError: If the config describes what a `CLIPModel` cannot be.
    """
    model = config.get("model_cfg", config)
    vision, text = model.get("vision_cfg") or {}, model.get("text_cfg") or {}
    if isinstance(vision.get("layers"), list):
        raise ValueError(f"{source} cannot become a CLIPModel: its image tower is a ResNet, not a ViT.")
    for name, section in (("model", model), ("vision_cfg", vision), ("text_cfg", text)):
        _refuse_other_models(name, section, source)
    tokenizer = str(text.get("hf_tokenizer_name") or "clip")
    if "clip" not in tokenizer.lower():
        raise ValueError(
            f"{source} cannot become a CLIPModel: its texts are tokenised by {tokenizer!r}, and CLIPTokenizer cannot."
        )
    preprocess = config.get("preprocess_cfg") or {}
    if (how := (preprocess.get("interpolation", "bicubic"), preprocess.get("resize_mode", "shortest"))) != _RESIZING:
        logger.warning("%s resizes images by %s, and CLIP's processor by %s.", source, how, _RESIZING)
    if "width" not in vision or "width" not in text:
        raise ValueError(f"{source}: open_clip_config.json has no vision_cfg and text_cfg with a width each.")
    named = {"image_size": vision, "patch_size": vision, "context_length": text, "vocab_size": text}
    sizes = {name: section[name] for name, section in named.items() if name in section}
    for tower, section in (("vision", vision), ("text", text)):
        sizes |= {f"{tower} {name}": section[name] for name in ("width", "layers") if name in section}
    return {
        "sizes": sizes | ({"embed_dim": model["embed_dim"]} if "embed_dim" in model else {}),
        "vision_heads": vision["width"] // vision.get("head_width", HEAD_WIDTH),
        "text_heads": text.get("heads", _TEXT_HEADS),
        "layer_norm_eps": tuple((part.get("norm_kwargs") or {}).get("eps", _EPS) for part in (vision, text)),
        "quick_gelu": model.get("quick_gelu"),
        "image_mean": list(preprocess.get("mean") or OPENAI_CLIP_MEAN),
        "image_std": list(preprocess.get("std") or OPENAI_CLIP_STD),
    }


def _refuse_other_models(name: str, section: Mapping[str, Any], source: str) -> None:
    for key, value in section.items():
        if key in _READ[name] or value in _AS_IN_CLIP.get(key, ()) or not value:
            continue
        reason = _REASONS.get(key, f"{key}: {value!r}, which a CLIPModel has no place for")
        raise ValueError(f"{source} cannot become a CLIPModel: its open_clip_config.json asks for {reason}.")


def write_open_clip(config: Mapping[str, Any]) -> dict[str, Any]:
    """`open_clip_config.json` of a Hugging Face CLIP.

    Args:
        config: `CLIPConfig.to_dict()`, with `image_mean` and `image_std`.

    Raises:
        ValueError: If open_clip would compute something else: another activation, one for each tower, or texts whose
            last token is not the highest.
    """
    vision, text = config["vision_config"], config["text_config"]
    acts = {vision["hidden_act"], text["hidden_act"]}
    if len(acts) > 1 or not acts <= {"quick_gelu", "gelu"}:
        raise ValueError(f"open_clip has quick_gelu or gelu for both towers together; this model has {sorted(acts)}.")
    if text["eos_token_id"] not in (2, text["vocab_size"] - 1):
        raise ValueError(
            f"open_clip reads a text where its token is highest, and here the last token is {text['eos_token_id']} of "
            f"{text['vocab_size']}; it must be the last of the vocabulary."
        )
    towers = []
    for tower in (vision, text):
        norm = {} if tower["layer_norm_eps"] == _EPS else {"norm_kwargs": {"eps": tower["layer_norm_eps"]}}
        ratio = _ratio(tower["hidden_size"], tower["intermediate_size"])
        towers.append({"width": tower["hidden_size"], "layers": tower["num_hidden_layers"], "mlp_ratio": ratio} | norm)
    own_vision = {name: vision[name] for name in ("image_size", "patch_size")}
    own_vision["head_width"] = vision["hidden_size"] // vision["num_attention_heads"]
    own_text = {"context_length": text["max_position_embeddings"], "vocab_size": text["vocab_size"]}
    own_text["heads"] = text["num_attention_heads"]
    return {
        "model_cfg": {
            "embed_dim": config["projection_dim"],
            "quick_gelu": acts == {"quick_gelu"},
            "vision_cfg": towers[0] | own_vision,
            "text_cfg": towers[1] | own_text,
        },
        "preprocess_cfg": {
            "mean": list(config["image_mean"]),
            "std": list(config["image_std"]),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def _ratio(width: int, inner: int) -> float:
    """A ratio of which `int(width * ratio)`, as open_clip computes it, is `inner`.

    >>> int(1664 * _ratio(1664, 8192))
    8192
    """
    ratio = inner / width
    while int(width * ratio) < inner:
        ratio = math.nextafter(ratio, math.inf)
    return ratio
