"""A masked language model of random weights and forty words."""

from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NOUNS = ["photo", "dog", "cat", "car", "sky", "boat", "tree", "lamp"]
OTHERS = ["red", "small", "big", "old", "play", "surf", "jump", "a", "of", "this", "is", "the", ",", "."]
PIECES = ["##ing", "##ful", "##s", "##er", "##board"]
VOCABULARY = {token: index for index, token in enumerate(SPECIAL + NOUNS + OTHERS + PIECES)}


def save_tiny_bert(folder: Path) -> str:
    """Saves the model and its tokenizer, and returns the folder."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=40,
        initializer_range=1.0,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    BertTokenizer(vocab=VOCABULARY).save_pretrained(folder)
    return str(folder)
