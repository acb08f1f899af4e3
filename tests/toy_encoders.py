"""Encoders whose features are known sums, so that the best edit of a text can be found by trying them all."""

import zlib
from functools import cache

import torch


@cache
def vector_of(token, size=12):
    """The feature of a token: a fixed random direction."""
    return torch.randn(size, generator=torch.Generator().manual_seed(zlib.crc32(token.encode())))


class BagEncoder:
    """Features of a text are the sum of those of its tokens, one text at a time, so that company cannot matter.

    Args:
        tokens: Gives the tokens of a text.

    Attributes:
        calls: The texts of each call.
    """

    def __init__(self, tokens):
        self.tokens = tokens
        self.calls = []

    def __call__(self, texts):
        assert not torch.is_grad_enabled()
        self.calls.append(list(texts))
        return torch.stack([torch.stack(list(map(vector_of, self.tokens(text)))).sum(dim=0) for text in texts])

    @property
    def rows(self):
        return sum(map(len, self.calls))


def words(text):
    """Words with their places, in lower case."""
    return [f"{place} {word}" for place, word in enumerate(text.lower().split(" "))]


def characters(text):
    """Pairs of neighbouring characters."""
    return [first + second for first, second in zip(f" {text}", f"{text} ", strict=True)]
