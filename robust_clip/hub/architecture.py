"""The config of a CLIP whose weights one has: what their shapes say, and what they leave open."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from .formats import complain_of_names
from .open_clip_config import HEAD_WIDTH
from .open_clip_names import count_layers

_PATCHES = "vision_model.embeddings.patch_embedding.weight"
_TOKENS = "text_model.embeddings.token_embedding.weight"
VISION_PREFIXES = ("vision_model.", "visual_projection.")


def vision_fields(weights: Mapping[str, Tensor], heads: int | None, source: str) -> dict[str, Any]:
    """Fields of `CLIPVisionConfig`.

    Args:
        weights: Under the names of Hugging Face.
        heads: Attention heads; `None` for width/64.
        source: Named in errors.

    Raises:
        ValueError: If heads cannot be told, or the positions are not those of a square.
    """
    width, _, patch, _ = weights[_PATCHES].shape
    positions = len(weights["vision_model.embeddings.position_embedding.weight"]) - 1
    side = round(positions**0.5)
    if side * side != positions:
        raise ValueError(f"{source} has {positions} image positions, which is no square; a CLIPModel needs one.")
    sizes = {"image_size": side * patch, "patch_size": patch}
    return _tower(weights, "vision_model", width, heads, source) | sizes | {
        "projection_dim": weights["visual_projection.weight"].shape[0]
    }


def text_fields(weights: Mapping[str, Tensor], heads: int | None, source: str) -> dict[str, Any]:
    """Fields of `CLIPTextConfig`; arguments as of `vision_fields`.

    OpenAI's code and open_clip read a text where its token is highest. `CLIPTextModel` does that exactly when
    `eos_token_id` is 2, as in OpenAI's own configs; under any other it takes the first token of that id, which is the
    same only for texts that have it.
    """
    vocabulary, width = weights[_TOKENS].shape
    context = len(weights["text_model.embeddings.position_embedding.weight"])
    special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    return _tower(weights, "text_model", width, heads, source) | special | {
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "projection_dim": weights["text_projection.weight"].shape[0],
    }


def _tower(weights: Mapping[str, Tensor], prefix: str, width: int, heads: int | None, source: str) -> dict[str, Any]:
    if heads is None and width % HEAD_WIDTH:
        raise ValueError(
            f"{source}: the number of attention heads is not in the weights, and a width of {width} is no multiple of "
            f"{HEAD_WIDTH}. Put its open_clip_config.json beside it, or give a base of the same architecture."
        )
    return {
        "hidden_size": width,
        "intermediate_size": len(weights[f"{prefix}.encoder.layers.0.mlp.fc1.weight"]),
        "num_hidden_layers": count_layers(weights, f"{prefix}.encoder.layers"),
        "num_attention_heads": heads or width // HEAD_WIDTH,
    }


def check_sizes(said: Mapping[str, Any], config: Mapping[str, Any], source: str) -> None:
    """Compares what a config file says with the weights beside it.

    Args:
        said: `sizes` of `read_open_clip`.
        config: Read off the weights.
        source: Named in errors.

    Raises:
        ValueError: On the first difference.
    """
    vision, text = config["vision_config"], config["text_config"]
    found = {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "context_length": text["max_position_embeddings"],
        "vocab_size": text["vocab_size"],
        "embed_dim": config["projection_dim"],
    }
    for name, tower in (("vision", vision), ("text", text)):
        found |= {f"{name} width": tower["hidden_size"], f"{name} layers": tower["num_hidden_layers"]}
    for name, value in said.items():
        if value not in (found[name], [found[name]] * 2):
            raise ValueError(f"{source}: its config says {name} {value}, and its weights have {found[name]}.")


def check_fit(tower: Mapping[str, Any], base: Mapping[str, Any], source: str, base_name: str) -> None:
    """Whether an image tower has the shape of the base's, which is to lend its text tower.

    Args:
        tower: `vision_fields` of the tower.
        base: `vision_config` of the base.
        source: Of the tower.
        base_name: Of the base.

    Raises:
        ValueError: If not, with both values.
    """
    names = {
        "hidden_size": "width",
        "num_hidden_layers": "depth",
        "patch_size": "patch size",
        "image_size": "image size",
        "intermediate_size": "inner width",
        "projection_dim": "joint width",
    }
    differ = [f"{word} {tower[key]} against {base[key]}" for key, word in names.items() if tower[key] != base[key]]
    if differ:
        raise ValueError(
            f"The image tower of {source} does not fit the base {base_name}: {', '.join(differ)}. Give the CLIP that "
            "it was trained from."
        )


def check_weights(weights: Mapping[str, Tensor], config: Mapping[str, Any], source: str) -> None:
    """Whether the weights are exactly those that a `CLIPModel` of this config has.

    Raises:
        ValueError: If a parameter is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        expected = CLIPModel(CLIPConfig.from_dict(dict(config))).state_dict()
    complain_of_names(weights, expected, source)
    for name, parameter in expected.items():
        if weights[name].shape != parameter.shape:
            got, needed = tuple(weights[name].shape), tuple(parameter.shape)
            raise ValueError(f"{source}: {name} has shape {got}, and its config asks for {needed}.")


def only_vision(names: Sequence[str]) -> bool:
    """Whether these are names of an image tower and its projection alone, as Hugging Face calls them."""
    return all(name.startswith(VISION_PREFIXES) for name in names)
