"""Greedy substitution of words, most important first: the search that BERT-Attack and the word list share."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from robust_clip.attacks.counts import check_counts
from robust_clip.attacks.text import TextAttack, TextProblem
from robust_clip.attacks.words import STOP_WORDS
from robust_clip.paper import Paper

# What stands for a word while its importance is measured.
_UNKNOWN = "[UNK]"


class Place(NamedTuple):
    """A word of a text: the position of the text in the problem, and of the word in the text."""

    text: int
    word: int


Propose = Callable[[Sequence[Place]], list[list[str]]]


@dataclass(frozen=True, kw_only=True)
class WordSubstitution(TextAttack):
    """Replace the most important words, each by what raises the score most; subclasses say by which words.

    A word is what stands between single spaces. Its importance is the score of the text with `[UNK]` in its place.
    Words are tried in the order of their importance in the clean text; a word for which no candidate scores higher
    stays, and the next is tried. Function words and punctuation are left out, but only as they are written in lower
    case, as in the papers' code: in "This is a photo of a dog", "This" may be replaced.

    Args:
        words: Most words replaced in a text.

    Raises:
        ValueError: If `words` is not a positive integer.
    """

    paper: ClassVar[Paper] = Paper(
        title="BERT-ATTACK: Adversarial Attack Against BERT Using BERT",
        arxiv_id="2004.09984",
        bibtex="""@inproceedings{li2020bertattack,
  title = {{BERT-ATTACK}: Adversarial Attack Against {BERT} Using {BERT}},
  author = {Li, Linyang and Ma, Ruotian and Guo, Qipeng and Xue, Xiangyang and Qiu, Xipeng},
  booktitle = {Conference on Empirical Methods in Natural Language Processing},
  year = {2020},
  eprint = {2004.09984},
  archivePrefix = {arXiv}
}""",
    )

    words: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_counts(self, "words")

    def search(self, problem: TextProblem) -> list[str]:
        """Try the words of all texts in rounds: the next word of each text, all of them in one call of the encoder."""
        words = [text.split(" ") for text in problem.texts]
        propose = self.source(problem)
        queues = self._by_importance(problem, words)
        left = [self.words] * len(words)
        while places := [Place(text, queue.pop(0)) for text, queue in enumerate(queues) if queue and left[text]]:
            replacements: list[list[str]] = [[] for _ in words]
            for place, proposed in zip(places, propose(places), strict=True):
                replacements[place.text] = [word for word in proposed if word != words[place.text][place.word]]
            at = dict(places)
            candidates = [
                [_replaced(words[text], at[text], word) for word in group] for text, group in enumerate(replacements)
            ]
            allowed = self.permitted(problem, candidates)
            replacements, candidates = _kept(replacements, allowed), _kept(candidates, allowed)
            current = [" ".join(parts) for parts in words]
            for text, choice in enumerate(problem.choose(current, candidates)):
                if choice:
                    words[text][at[text]] = replacements[text][choice - 1]
                    left[text] -= 1
        return [" ".join(parts) for parts in words]

    @abstractmethod
    def source(self, problem: TextProblem) -> Propose:
        """Function that gives, for each place of the clean texts, the words that may stand there, best guess first."""

    def permitted(self, problem: TextProblem, candidates: list[list[str]]) -> list[list[bool]]:
        """Whether each candidate is near enough to its clean text; everything is, unless a subclass knows better."""
        return [[True] * len(group) for group in candidates]

    def _by_importance(self, problem: TextProblem, words: list[list[str]]) -> list[list[int]]:
        """Positions of the words of each text that may be replaced, most important first."""
        places = [[place for place, word in enumerate(parts) if word and word not in STOP_WORDS] for parts in words]
        masked = [
            [_replaced(parts, place, _UNKNOWN) for place in group] for parts, group in zip(words, places, strict=True)
        ]
        return [
            [group[rank] for rank in scores.argsort(descending=True, stable=True).tolist()]
            for group, scores in zip(places, problem.scores(masked), strict=True)
        ]


def _replaced(words: Sequence[str], place: int, word: str) -> str:
    """The text with another word at a place."""
    return " ".join([*words[:place], word, *words[place + 1 :]])


def _kept(groups: list[list[str]], flags: list[list[bool]]) -> list[list[str]]:
    """What is flagged of each group."""
    return [
        [item for item, flag in zip(group, flagged, strict=True) if flag]
        for group, flagged in zip(groups, flags, strict=True)
    ]
