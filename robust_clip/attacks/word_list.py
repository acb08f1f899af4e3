"""Word substitution from a fixed list: a text attack that needs no language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from robust_clip.attacks.counts import check_counts
from robust_clip.attacks.text import TextProblem
from robust_clip.attacks.word_substitution import Place, Propose, WordSubstitution
from robust_clip.attacks.words import COMMON_WORDS, read_words


@dataclass(frozen=True, kw_only=True)
class WordList(WordSubstitution):
    """BERT-Attack's search with candidates from a fixed list instead of a masked language model.

    Ours, for where no such model is at hand. It looks at no context: what it puts in need not fit the sentence, so it
    is not the attack of the papers, and its numbers do not compare with theirs.

    Args:
        candidates: Words that may be put in: a list, the path of a file with one word a line, or None for about five
            hundred common English nouns and adjectives that come with the package.
        k: Candidates tried for a word, drawn anew for each word; None tries the whole list.

    Raises:
        ValueError: If the list is empty or cannot be read, or a count is not a positive integer.
    """

    short_name: ClassVar[str] = "word_list"
    files: ClassVar[tuple[str, ...]] = ("candidates",)

    candidates: str | tuple[str, ...] | None = None
    k: int | None = None

    def __post_init__(self) -> None:
        """Check the fields, and make a list from a recipe a tuple."""
        super().__post_init__()
        if self.candidates is not None and not isinstance(self.candidates, str):
            object.__setattr__(self, "candidates", read_words(self.candidates))
        self._listed()
        if self.k is not None:
            check_counts(self, "k")

    def source(self, problem: TextProblem) -> Propose:
        """Candidates for every place, the same ones or a draw of them."""
        listed = self._listed()
        generators = [problem.generator(text) for text in range(len(problem.texts))]

        def propose(places: Sequence[Place]) -> list[list[str]]:
            if self.k is None:
                return [list(listed) for _ in places]
            draws = [torch.randperm(len(listed), generator=generators[place.text])[: self.k] for place in places]
            return [[listed[position] for position in draw.tolist()] for draw in draws]

        return propose

    def _listed(self) -> tuple[str, ...]:
        return COMMON_WORDS if self.candidates is None else read_words(self.candidates)
