"""Which class a text is of, read from its tokens: what is learned for each class is looked up by it."""

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class ClassTexts:
    """The texts of classes that have something of their own.

    Args:
        class_tokens: Pairs of a class name and the lists of token ids, without start and end, that stand for it.
        eos_token_id: Of the text tower.

    Raises:
        ValueError: If the tokens of two classes are the same, so that no text tells them apart.
    """

    def __init__(self, class_tokens: Sequence[Sequence[Any]], eos_token_id: Any) -> None:
        self.names = [name for name, _ in class_tokens]
        self.eos_token_id = eos_token_id
        self._class_of: dict[tuple[int, ...], int] = {}
        for row, (name, forms) in enumerate(class_tokens):
            for ids in map(tuple, forms):
                other = self._class_of.setdefault(ids, row)
                if other != row:
                    raise ValueError(
                        f"The classes {self.names[other]!r} and {name!r} are the same tokens to this tokenizer, so "
                        "neither can have something of its own; rename one of them."
                    )

    def rows(self, input_ids: Tensor, learned: str, instead: str) -> Tensor:
        """Number of the class, `(N,)`, of each text.

        Args:
            input_ids: `(N, L)` token ids with start and end token; nothing after the end token matters.
            learned: What each class has, for the error.
            instead: What to do about a text of no class, for the error.

        Raises:
            ValueError: If a text is of none of the classes.
        """
        ends = end_positions(input_ids, self.eos_token_id).tolist()
        texts = [tuple(row[1:end]) for row, end in zip(input_ids.tolist(), ends, strict=True)]
        unknown = [(row, text) for row, text in enumerate(texts) if text not in self._class_of]
        if unknown:
            row, text = unknown[0]
            near = ", ".join(map(repr, self._near(text)))
            raise ValueError(
                f"Text {row} is none of the {len(self.names)} class names that have {learned} each; near it: {near}. "
                f"{instead}"
            )
        return torch.tensor([self._class_of[text] for text in texts], device=input_ids.device)

    def _near(self, text: tuple[int, ...]) -> list[str]:
        likeness = {
            ids: difflib.SequenceMatcher(None, ids, text, autojunk=False).ratio() for ids in self._class_of
        }
        best = sorted(likeness, key=lambda ids: -likeness[ids])
        return list(dict.fromkeys(self.names[self._class_of[ids]] for ids in best))[:3]


def end_positions(input_ids: Tensor, eos_token_id: Any) -> Tensor:
    """Where each text ends, `(N,)`, found as CLIP's pooling finds it."""
    # Configurations from before transformers' correction of the id pool at the largest one.
    wanted = input_ids if eos_token_id == 2 else torch.eq(input_ids, eos_token_id).int()
    return wanted.argmax(dim=-1)
