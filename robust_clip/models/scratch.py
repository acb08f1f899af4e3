"""A CLIP built from nothing: random towers and a byte-level tokenizer fitted to some texts."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPImageProcessorPil, CLIPProcessor, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from robust_clip.suggestions import instead

from .configuration import RobustCLIPConfig
from .modeling import RobustCLIPModel

_END_OF_WORD = "</w>"
_SPECIAL = ["<|startoftext|>", "<|endoftext|>"]


def train_tokenizer(texts: Iterable[str], vocab_size: int, context_length: int) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges come from `texts` and whose vocabulary holds every byte, so any text encodes.

    Args:
        texts: What the merges are learned from; may be empty, which leaves the bytes.
        vocab_size: Largest size of the vocabulary; texts with little to merge leave it smaller.
        context_length: Longest sequence of tokens, start and end included.

    Raises:
        ValueError: If `vocab_size` is smaller than the 512 byte tokens and two special tokens.
    """
    byte_tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    base = byte_tokens + [byte + _END_OF_WORD for byte in byte_tokens]
    n_merges = vocab_size - len(base) - len(_SPECIAL)
    if n_merges < 0:
        raise ValueError(f"vocab_size must be at least {len(base) + len(_SPECIAL)}, got {vocab_size}.")
    backend = Tokenizer(models.BPE(end_of_word_suffix=_END_OF_WORD))
    reference = CLIPTokenizer().backend_tokenizer
    backend.normalizer, backend.pre_tokenizer = reference.normalizer, reference.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=10 * vocab_size, end_of_word_suffix=_END_OF_WORD, initial_alphabet=byte_tokens, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    merges = [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"][:n_merges]]
    tokens = list(dict.fromkeys(base + ["".join(merge) for merge in merges] + _SPECIAL))
    vocab = {token: position for position, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=context_length)  # type: ignore[arg-type]


def build_clip(
    texts: Iterable[str],
    *,
    vision_config: dict[str, Any],
    text_config: dict[str, Any],
    projection_dim: int = 128,
    vocab_size: int = 1024,
) -> tuple[RobustCLIPModel, CLIPProcessor]:
    """A randomly initialised CLIP and the processor that fits it.

    Args:
        texts: What the tokenizer's merges are learned from.
        vision_config: Fields of `CLIPVisionConfig`.
        text_config: Fields of `CLIPTextConfig`; special tokens and, if not given, `vocab_size` are filled in.
        projection_dim: Width of the joint space.
        vocab_size: Largest size of the vocabulary.

    Returns:
        The model, in training mode, and a `CLIPProcessor` that decodes with Pillow.

    Raises:
        ValueError: If a tower's config has a key that transformers does not know, or as `train_tokenizer`.
    """
    _refuse_unknown("vision_config", vision_config, CLIPVisionConfig)
    _refuse_unknown("text_config", text_config, CLIPTextConfig)
    context_length = text_config.get("max_position_embeddings", 77)
    tokenizer = train_tokenizer(texts, vocab_size, context_length)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = RobustCLIPConfig(
        vision_config={**vision_config, "projection_dim": projection_dim},
        text_config={"vocab_size": len(tokenizer), **text_config, "projection_dim": projection_dim, **special},
        projection_dim=projection_dim,
    )
    model = RobustCLIPModel(config)
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": model.image_size},
        crop_size={"height": model.image_size, "width": model.image_size},
        image_mean=config.image_mean,
        image_std=config.image_std,
    )
    return model, CLIPProcessor(image_processor, tokenizer)


def _refuse_unknown(name: str, settings: Mapping[str, Any], config_class: type) -> None:
    # A transformers config keeps an unknown key without a word, so a misspelt size would leave its default.
    known = config_class.__annotations__
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise ValueError(f"Unknown key {unknown[0]!r} in {name}{instead(unknown[0], sorted(known))}")
