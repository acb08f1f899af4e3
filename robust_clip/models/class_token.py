"""The image tower without what no classifier reads: in its last block the class token alone goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.clip.modeling_clip import CLIPEncoder, CLIPEncoderLayer

from .modeling import RobustCLIPModel


@contextmanager
def class_token_alone(model: RobustCLIPModel) -> Iterator[None]:
    """Let the last block of the image tower compute the class token alone meanwhile; afterwards it is as before.

    The other tokens still give it keys and values; their own way through the block ends there, and `encode_image`
    gives what it gave, up to rounding. That spares most of one block of each pass: of 12 layers' work a fourteenth, of
    6 a seventh. `encode_image_tokens` gives the class token alone meanwhile. A tower with learned tokens is left as it
    is.

    Args:
        model: Of whose images nothing but `encode_image` will be asked.
    """
    encoder: Any = model.vision_model.encoder
    last = encoder.layers[-1]
    if type(encoder) is not CLIPEncoder or type(last) is not CLIPEncoderLayer:
        yield
        return
    with forward_of(last, partial(_class_token, last)):
        yield


@contextmanager
def forward_of(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Give a module another `forward` meanwhile, also in place of one of its own, as other libraries set it."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            vars(module).pop("forward")
        else:
            module.forward = own


def _class_token(block: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    """`(B, 1, D)` of the tokens `(B, 1 + N, D)` before the block."""
    attention = block.self_attn

    def heads(states: Tensor) -> Tensor:
        return states.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    tokens = block.layer_norm1(hidden_states)
    query, key, value = attention.q_proj(tokens[:, :1]), attention.k_proj(tokens), attention.v_proj(tokens)
    attended = F.scaled_dot_product_attention(heads(query), heads(key), heads(value), scale=attention.scale)
    states = hidden_states[:, :1] + attention.out_proj(attended.transpose(1, 2).flatten(2))
    through: Tensor = states + block.mlp(block.layer_norm2(states))
    return through
