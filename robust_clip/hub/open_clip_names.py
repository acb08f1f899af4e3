"""The names of OpenAI's CLIP code, which open_clip keeps, beside those of Hugging Face; both ways over one table."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# Their name of a parameter, and ours. The spelling `pre_layrnorm` is Hugging Face's.
_VISION = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "ln_post.weight": "vision_model.post_layernorm.weight",
    "ln_post.bias": "vision_model.post_layernorm.bias",
    "proj": "visual_projection.weight",
}
_TEXT = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
# They multiply by these from the right; a Linear keeps the transpose.
_TRANSPOSED = {"visual_projection.weight", "text_projection.weight"}


def name_table(vision_layers: int, text_layers: int | None) -> dict[str, tuple[str, ...]]:
    """Each name of theirs, with the one of Hugging Face, or the three that `attn.in_proj` is cut into.

    Args:
        vision_layers: Blocks of the image tower.
        text_layers: Blocks of the text tower, or `None` for an image tower alone, whose names have no `visual.`.

    >>> name_table(1, None)["transformer.resblocks.0.mlp.c_fc.bias"]
    ('vision_model.encoder.layers.0.mlp.fc1.bias',)
    """
    prefix = "" if text_layers is None else "visual."
    table: dict[str, tuple[str, ...]] = {prefix + theirs: (ours,) for theirs, ours in _VISION.items()}
    table |= _blocks(f"{prefix}transformer", "vision_model", vision_layers)
    if text_layers is not None:
        table |= {theirs: (ours,) for theirs, ours in _TEXT.items()}
        table |= _blocks("transformer", "text_model", text_layers)
    return table


def _blocks(theirs: str, ours: str, layers: int) -> dict[str, tuple[str, ...]]:
    table: dict[str, tuple[str, ...]] = {}
    for layer in range(layers):
        block, inner = f"{theirs}.resblocks.{layer}", f"{ours}.encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            table[f"{block}.attn.in_proj_{kind}"] = tuple(f"{inner}.self_attn.{x}_proj.{kind}" for x in "qkv")
            table |= {f"{block}.{name}.{kind}": (f"{inner}.{mine}.{kind}",) for name, mine in _BLOCK.items()}
    return table


def count_layers(names: Iterable[str], blocks: str) -> int:
    """One more than the highest block among `names` that start with `blocks`, such as `visual.transformer.resblocks`.

    >>> count_layers(["transformer.resblocks.11.ln_1.bias"], "transformer.resblocks")
    12
    """
    numbers = (re.match(re.escape(blocks) + r"\.(\d+)\.", name) for name in names)
    return max((int(number[1]) + 1 for number in numbers if number), default=0)


def to_hugging_face(weights: Mapping[str, Tensor], table: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Renames, cuts fused queries, keys and values apart, and transposes projections.

    Args:
        weights: Exactly the names of `table`.
        table: From `name_table`.
    """
    renamed: dict[str, Tensor] = {}
    for theirs, ours in table.items():
        fused = weights[theirs]
        for name, part in zip(ours, fused.chunk(len(ours)) if len(ours) > 1 else (fused,), strict=True):
            part = part.T if name in _TRANSPOSED else part
            # A temperature of shape (1,) is open_clip's `nonscalar_logit_scale`. Copies, so that no two parameters
            # share memory: safetensors would take them for one.
            part = part.reshape(()) if name == "logit_scale" else part
            renamed[name] = part.clone(memory_format=torch.contiguous_format)
    return renamed


def to_open_clip(weights: Mapping[str, Tensor], table: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """The inverse of `to_hugging_face`, exactly."""
    renamed = {}
    for theirs, ours in table.items():
        parts = [weights[name].T if name in _TRANSPOSED else weights[name] for name in ours]
        renamed[theirs] = (torch.cat(parts) if len(parts) > 1 else parts[0]).contiguous()
    return renamed
