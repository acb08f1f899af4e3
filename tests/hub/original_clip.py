"""OpenAI's CLIP in plain torch, with the parameter names that OpenAI and open_clip give them, and its whole forward.

Radford et al., https://huggingface.co/papers/2103.00020, section 2.4: pre-norm blocks, a class token read after
`ln_post`, causal text that is read where its token is highest, projections by `@`, an exponential temperature.
"""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

ACTS = {"quick_gelu": lambda x: x * torch.sigmoid(1.702 * x), "gelu": F.gelu}


class Act(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.act = ACTS[name]

    def forward(self, x):
        return self.act(x)


class Block(nn.Module):
    def __init__(self, width, heads, inner, act):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        layers = [("c_fc", nn.Linear(width, inner)), ("gelu", Act(act)), ("c_proj", nn.Linear(inner, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x, mask):
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width, heads, layers, inner, act):
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, heads, inner, act) for _ in range(layers)])

    def forward(self, x, mask=None):
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self, side, patch, width, heads, layers, inner, joint, act):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((side // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, heads, layers, inner, act)
        self.proj = nn.Parameter(torch.randn(width, joint) * width**-0.5)

    def forward(self, images, tokens=None):
        x = self.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        if tokens is not None:
            x = torch.cat([x, tokens.expand(len(x), -1, -1)], dim=1)
        x = self.transformer(self.ln_pre(x))
        return self.ln_post(x[:, 0]) @ self.proj


class OriginalCLIP(nn.Module):
    """A whole model; sizes are those of the smallest that has OpenAI's head width of 64."""

    def __init__(
        self, act, *, side=16, patch=8, vision=(128, 2, 2), text=(64, 1, 2), joint=32, context=12, vocab=527, ratio=4
    ):
        super().__init__()
        width, heads, layers = vision
        self.visual = Visual(side, patch, width, heads, layers, ratio * width, joint, act)
        width, heads, layers = text
        self.transformer = Transformer(width, heads, layers, ratio * width, act)
        self.token_embedding = nn.Embedding(vocab, width)
        self.positional_embedding = nn.Parameter(torch.randn(context, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, joint) * width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(3.0))
        for name, parameter in self.named_parameters():
            # Nothing may stay at a value that a mix-up would not change.
            if parameter.dim() == 1 or "embedding" in name:
                parameter.data += 0.1 * torch.randn_like(parameter)
        self.eval()

    def encode_text(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        mask = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)
        x = self.ln_final(self.transformer(x, mask))
        return x[torch.arange(len(ids)), ids.argmax(dim=-1)] @ self.text_projection

    def forward(self, images, ids):
        images, texts = (F.normalize(x, dim=-1) for x in (self.visual(images), self.encode_text(ids)))
        return self.logit_scale.exp() * images @ texts.T


def open_clip_config(model, act, *, text_heads=1, **more):
    """`open_clip_config.json` of a model."""
    visual = model.visual
    side = round((len(visual.positional_embedding) - 1) ** 0.5) * visual.conv1.kernel_size[0]
    vision = {"image_size": side, "patch_size": visual.conv1.kernel_size[0], "width": visual.conv1.out_channels}
    text = {"context_length": len(model.positional_embedding), "heads": text_heads}
    text |= {"vocab_size": model.token_embedding.num_embeddings, "width": model.token_embedding.embedding_dim}
    for tower, transformer in ((vision, visual.transformer), (text, model.transformer)):
        tower["layers"] = len(transformer.resblocks)
    head = {"head_width": visual.conv1.out_channels // visual.transformer.resblocks[0].attn.num_heads}
    named = {"embed_dim": visual.proj.shape[1], "vision_cfg": vision | head, "text_cfg": text}
    return {"model_cfg": named | ({} if act is None else {"quick_gelu": act == "quick_gelu"}) | more}
