"""Attacks that change single characters: LEAF's random search and Charmer's search over the best positions."""

import re
import string
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from robust_clip.attacks.counts import check_counts
from robust_clip.attacks.text import Distance, TextAttack, TextProblem
from robust_clip.attacks.words import read_words
from robust_clip.paper import Paper

# LEAF's vocabulary, besides deletion.
CHARACTERS = string.ascii_lowercase + " " + string.ascii_uppercase + string.digits + string.punctuation
# Where a text parts into words for the dictionary, as the tokenizer of the authors' code has it (NLTK's): not inside
# `do-g` or `do.g`, and before the endings of `dog's` and `don't`.
_PARTS = re.compile(
    r"[\s:,;@#$%&?!()\[\]{}<>\"`*]|--|\.\.|(?<!\w)'|'(?!\w)|(?='(?:s|m|d|ll|re|ve)\b)|(?=n't\b)"
)
# What is put at a position to see how much it matters.
_TEST = " "


def edit(text: str, position: int, character: str) -> str:
    """The text after one insertion, replacement or deletion.

    A text of n characters has 2n + 1 positions: the odd ones are its characters, the even ones the gaps around them.

    Args:
        text: Any text.
        position: From 0 to 2n.
        character: To be put there; the empty string deletes. A character put in its own place deletes it too, so that
            every edit at an odd position changes the text.

    Example:
        >>> edit("cat", 0, "s"), edit("cat", 1, "b"), edit("cat", 1, ""), edit("cat", 1, "c")
        ('scat', 'bat', 'at', 'at')
    """
    index, odd = divmod(position, 2)
    if not odd:
        return text[:index] + character + text[index:]
    return text[:index] + ("" if character == text[index] else character) + text[index + 1 :]


@dataclass(frozen=True, kw_only=True)
class CharacterAttack(TextAttack):
    """Greedy edits of single characters, in two stages: find where, then find which character.

    A space is put at positions of the text (where there is one, it is deleted). Those where that raises the score most
    are kept, and characters are tried there. The best of these and of the text as it stands goes into the next round.
    The Levenshtein distance from the clean text is at most `edits`, and no text becomes blank.

    Args:
        edits: Rounds, of one edit each.
        positions: Positions, as subclasses say.
        characters: That may be put in; deletion is always allowed.
        dictionary: Words, or the path of a file with one word a line. An edit must then lower the number of different
            words of the text, in lower case, that are in it, so that no word turns into another; a text that has none
            stays as it is. None for no such constraint.

    Raises:
        ValueError: If a count is not a positive integer, or there is no character or no word.
    """

    files: ClassVar[tuple[str, ...]] = ("dictionary",)

    distance: Distance = "l2"
    edits: int = 1
    positions: int = 20
    characters: str = CHARACTERS
    dictionary: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check the fields, and make a list from a recipe a tuple."""
        super().__post_init__()
        check_counts(self, "edits", "positions")
        if not self.characters:
            raise ValueError(f"{type(self).__name__} characters is empty; give those that may be put in")
        if self.dictionary is not None:
            words = read_words(self.dictionary)
            if not isinstance(self.dictionary, str):
                object.__setattr__(self, "dictionary", words)

    def search(self, problem: TextProblem) -> list[str]:
        """Edit all texts in rounds, two calls of the encoder for each."""
        current = list(problem.texts)
        generators = [problem.generator(owner) for owner in range(len(current))]
        dictionary = self._words()
        for _ in range(self.edits):
            tried = [
                self.draw_positions(2 * len(text) + 1, generator)
                for text, generator in zip(current, generators, strict=True)
            ]
            tests = [_tests(text, places, dictionary) for text, places in zip(current, tried, strict=True)]
            candidates = []
            for owner, scores in enumerate(problem.scores(tests)):
                best = scores.argsort(descending=True, stable=True)[: self.kept].tolist()
                characters = self.draw_characters(generators[owner])
                text, positions = current[owner], [tried[owner][rank] for rank in best]
                group = dict.fromkeys(changed for one in characters for changed in _edits(text, positions, one))
                candidates.append([changed for changed in group if _allowed(text, changed, dictionary)])
            choices = problem.choose(current, candidates)
            current = [
                group[choice - 1] if choice else text
                for text, group, choice in zip(current, candidates, choices, strict=True)
            ]
        return current

    @property
    @abstractmethod
    def kept(self) -> int:
        """Positions that characters are tried at."""

    @abstractmethod
    def draw_positions(self, count: int, generator: torch.Generator) -> list[int]:
        """Positions, of `count`, that are tested with a space."""

    @abstractmethod
    def draw_characters(self, generator: torch.Generator) -> list[str]:
        """Characters that are tried at the positions kept, the empty one for deletion among them."""

    def _alphabet(self) -> list[str]:
        """What may be put at a position."""
        return ["", *dict.fromkeys(self.characters)]

    def _words(self) -> frozenset[str] | None:
        if self.dictionary is None:
            return None
        return frozenset(word.lower() for word in read_words(self.dictionary))


@dataclass(frozen=True, kw_only=True)
class LEAF(CharacterAttack):
    """LEAF's attack: `positions` random positions, the best of them, `positions` random characters there.

    https://huggingface.co/papers/2506.03355; cheap and of fixed cost, for training. `positions` is the paper's rho.

    Differs from the authors' code: a text keeps its form if no edit scores higher, and where there are fewer positions
    or characters than `positions` all of them are tried, instead of as many draws with replacement.

    Args:
        positions: Random positions, and random characters, that are tried in a round.
    """

    paper: ClassVar[Paper] = Paper(
        title="Robustness in Both Domains: CLIP Needs a Robust Text Encoder",
        arxiv_id="2506.03355",
        bibtex="""@inproceedings{abadrocamora2025robustness,
  title = {Robustness in Both Domains: {CLIP} Needs a Robust Text Encoder},
  author = {Abad Rocamora, Elias and Schlarmann, Christian and Singh, Naman Deep and Wu, Yongtao and Hein, Matthias
            and Cevher, Volkan},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2025},
  eprint = {2506.03355},
  archivePrefix = {arXiv}
}""",
    )
    short_name: ClassVar[str] = "leaf"

    positions: int = 50

    @property
    def kept(self) -> int:
        """One."""
        return 1

    def draw_positions(self, count: int, generator: torch.Generator) -> list[int]:
        """Different random positions."""
        return torch.randperm(count, generator=generator)[: self.positions].tolist()

    def draw_characters(self, generator: torch.Generator) -> list[str]:
        """Different random characters."""
        alphabet = self._alphabet()
        draw = torch.randperm(len(alphabet), generator=generator)[: self.positions]
        return [alphabet[index] for index in draw.tolist()]


@dataclass(frozen=True, kw_only=True)
class Charmer(CharacterAttack):
    """Charmer's attack: all positions tested, every character tried at the best `positions` of them.

    https://huggingface.co/papers/2405.04346, without its relaxation of the choice of a character: all of them are
    tried, as LEAF's evaluation does. Nothing in it is random. What it climbs by default is LEAF's distance; the paper
    attacks classifiers, and climbs their loss.

    Differs from the authors' code: a text keeps its form if no edit scores higher, and the search does not stop early
    for a text that is misclassified, since it knows no classes.

    Args:
        positions: Positions, best first, that every character is tried at.
    """

    paper: ClassVar[Paper] = Paper(
        title="Revisiting Character-level Adversarial Attacks for Language Models",
        arxiv_id="2405.04346",
        bibtex="""@inproceedings{abadrocamora2024revisiting,
  title = {Revisiting Character-level Adversarial Attacks for Language Models},
  author = {Abad Rocamora, Elias and Wu, Yongtao and Liu, Fanghui and Chrysos, Grigorios G. and Cevher, Volkan},
  booktitle = {International Conference on Machine Learning},
  year = {2024},
  eprint = {2405.04346},
  archivePrefix = {arXiv}
}""",
    )
    short_name: ClassVar[str] = "charmer"

    @property
    def kept(self) -> int:
        """As many as `positions` says."""
        return self.positions

    def draw_positions(self, count: int, generator: torch.Generator) -> list[int]:
        """Every position."""
        return list(range(count))

    def draw_characters(self, generator: torch.Generator) -> list[str]:
        """Every character."""
        return self._alphabet()


def _edits(text: str, positions: Sequence[int], character: str) -> list[str]:
    """The text with the character put at each of the positions in turn."""
    return [edit(text, position, character) for position in positions]


def _tests(text: str, positions: Sequence[int], dictionary: frozenset[str] | None) -> list[str]:
    """The text with the test character at each of the positions in turn, or unchanged where that is not allowed."""
    # Unchanged and not left out: another character may be allowed at the position.
    return [changed if _allowed(text, changed, dictionary) else text for changed in _edits(text, positions, _TEST)]


def _allowed(text: str, changed: str, dictionary: frozenset[str] | None) -> bool:
    """Whether a text may be edited into another."""
    if changed == text or not changed.strip():
        return False
    return dictionary is None or _count(changed, dictionary) < _count(text, dictionary)


def _count(text: str, dictionary: frozenset[str]) -> int:
    """Different words of a text that are in a dictionary; `do-g` and `do.g` are one each, as in the authors' code."""
    return len(dictionary.intersection(word.rstrip(".") for word in _PARTS.split(text.lower())))
