"""A clean CLIP under OpenAI's names, one whose image tower was trained from it, and their folders."""

import json
from functools import cache

import torch
from safetensors.torch import save_file

from robust_clip.hub import convert_checkpoint, load_published
from robust_clip.models.scratch import train_tokenizer
from tests.hub.original_clip import OriginalCLIP, open_clip_config

VOCABULARY, CONTEXT = 527, 12


@cache
def tokenizer():
    texts = [f"a photo of a {name}" for name in ("red", "green", "blue")]
    return train_tokenizer(texts, VOCABULARY, CONTEXT)


def model_inputs():
    """Normalised images and token ids, each text ending in the highest id, padded with it."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, VOCABULARY - 10, (5, CONTEXT), generator=generator)
    for row, end in enumerate((4, 11, 7, 2, 9)):
        ids[row, end:] = VOCABULARY - 1
    return torch.randn(3, 3, 16, 16, generator=generator), ids


def clean_model(act):
    torch.manual_seed(3)
    return OriginalCLIP(act)


def tuned_model(act):
    """The clean model, its image tower trained a little."""
    model = clean_model(act)
    generator = torch.Generator().manual_seed(4)
    for parameter in model.visual.parameters():
        parameter.data += 0.02 * parameter.data.std() * torch.randn(parameter.shape, generator=generator)
    return model


def write_open_clip(folder, model, act, *, pickled=False, **more):
    """An open_clip folder, with the tokenizer that open_clip puts beside a model."""
    folder.mkdir()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if pickled:
        torch.save(weights, folder / "open_clip_pytorch_model.bin")
    else:
        save_file(weights, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(open_clip_config(model, act, **more)))
    tokenizer().save_pretrained(folder)
    return folder


def write_base(folder, act):
    """The clean model as a folder of Hugging Face."""
    original = write_open_clip(folder / "clean_open_clip", clean_model(act), act)
    convert_checkpoint(load_published(original), folder / "base", "huggingface")
    return str(folder / "base")
