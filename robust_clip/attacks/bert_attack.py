"""BERT-Attack on the text tower of CLIP, as Co-Attack, SGA and MMCoA run it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from robust_clip.attacks.counts import check_counts
from robust_clip.attacks.masked_lm import MaskedLM, cached_commit, load_masked_lm
from robust_clip.attacks.text import TextProblem
from robust_clip.attacks.word_substitution import Place, Propose, WordSubstitution
from robust_clip.attacks.words import STOP_WORDS

Offset = Literal["corrected", "authors"]

# For a word of several WordPieces: pieces looked at, guesses for each of them, and combinations that are kept.
_PIECES, _GUESSES, _COMBINATIONS = 12, 4, 24


@dataclass(frozen=True, kw_only=True)
class BERTAttack(WordSubstitution):
    """Replace the most important words by what a masked language model would put there.

    https://huggingface.co/papers/2004.09984, in the label-free form of https://huggingface.co/papers/2206.09391 (its
    released code) and https://huggingface.co/papers/2404.19287. The model reads the unmasked sentence once. For a word
    of one WordPiece its `k` likeliest tokens there are candidates; for a word of several, up to 24 combinations of the
    4 likeliest tokens of each piece, those first that the model finds likeliest. Function words, punctuation and
    pieces of words (`##`) are no candidates. No candidate is checked for meaning unless `similarity` says so: "dog"
    may well become "cat".

    Differs from the authors' code: sentences reach the encoder as they are, not lower-cased and re-spaced by BERT's
    tokenizer; special tokens are no candidates; the list of function words is ours; importance is measured by the
    score that is climbed, which is the same thing unless the caller gives one.

    Args:
        masked_lm: Hub id or path of a masked language model with WordPieces.
        k: Likeliest tokens that are candidates for a word.
        threshold: Candidates for a word of one piece end at the first whose logit is lower, raw and not a probability;
            None for no limit.
        offset: Where the model's guesses for a word are looked up. `authors` reproduces an error of all three
            repositories: they count tokens without the `[CLS]` at the front, so that each word gets the guesses for
            the token before it.
        max_length: Tokens of a sentence that the model reads; words beyond them stay as they are.
        similarity: Smallest cosine between the mean last hidden states of the clean and the changed sentence, from -1
            to 1. Those of unrelated sentences are far above 0, so only limits near 1, such as 0.95, forbid anything.
            None, as the papers, for no limit.

    Raises:
        ValueError: If a count is not a positive integer, or offset, length or similarity are not as above.
    """

    short_name: ClassVar[str] = "bert_attack"
    files: ClassVar[tuple[str, ...]] = ("masked_lm",)

    masked_lm: str = "bert-base-uncased"
    k: int = 10
    threshold: float | None = 0.3
    offset: Offset = "corrected"
    max_length: int = 30
    similarity: float | None = None

    def __post_init__(self) -> None:
        """Check the fields; the model is loaded by the first attack."""
        super().__post_init__()
        check_counts(self, "k", "max_length")
        if self.max_length < 3:
            raise ValueError(f"max_length counts [CLS] and [SEP], so it must be at least 3, got {self.max_length}")
        if self.offset not in get_args(Offset):
            raise ValueError(f"unknown offset {self.offset!r}, known: {', '.join(get_args(Offset))}")
        if self.similarity is not None and not -1 <= self.similarity <= 1:
            raise ValueError(f"similarity is a cosine, from -1 to 1, or None, got {self.similarity!r}")

    def require_packages(self) -> None:
        """Load the masked language model, or refuse to begin."""
        load_masked_lm(self.masked_lm)

    def parameters(self) -> dict[str, Any]:
        """As of every text attack; of a model of the Hub also the commit, once it is in the cache."""
        commit = cached_commit(self.masked_lm)
        return super().parameters() | ({"masked_lm": f"{self.masked_lm} ({commit[:16]})"} if commit else {})

    def source(self, problem: TextProblem) -> Propose:
        """Candidates by the masked language model, which reads each different sentence once, all in one pass."""
        model = self._model(problem)
        sentences = list(dict.fromkeys(problem.texts))
        guesses = dict(zip(sentences, model.predictions(sentences, self.k, self.max_length), strict=True))

        def propose(places: Sequence[Place]) -> list[list[str]]:
            sequences = []
            for place in places:
                text = problem.texts[place.text]
                ids, logits = guesses[text]
                rows = self._rows(model, text.split(" "), place.word)
                sequences.append(self._sequences(ids[rows], logits[rows]))
            return self._words(model, sequences)

        return propose

    def permitted(self, problem: TextProblem, candidates: list[list[str]]) -> list[list[bool]]:
        """Whether each candidate is as similar to its clean text as `similarity` demands."""
        if self.similarity is None:
            return super().permitted(problem, candidates)
        changed = [clean for clean, group in zip(problem.texts, candidates, strict=True) if group]
        sentences = list(dict.fromkeys([*changed, *(text for group in candidates for text in group)]))
        if not sentences:
            return [[] for _ in candidates]
        vectors = dict(zip(sentences, self._model(problem).embed(sentences), strict=True))
        return [
            [float(vectors[text] @ vectors[clean]) >= self.similarity for text in group]
            for clean, group in zip(problem.texts, candidates, strict=True)
        ]

    def _model(self, problem: TextProblem) -> MaskedLM:
        """The masked language model, on the device of the encoder's features."""
        loaded = load_masked_lm(self.masked_lm)
        loaded.model.to(problem.device)
        return loaded

    def _rows(self, model: MaskedLM, words: Sequence[str], place: int) -> slice:
        """Rows of the model's guesses that belong to the word at `place`; empty if it lies beyond them."""
        before = sum(model.pieces(word) for word in words[:place])
        length = model.pieces(words[place])
        if self.offset == "authors":
            # As theirs: a word that begins in time is cut at the end of the sequence.
            return slice(before, before + length if before <= self.max_length - 2 else before)
        inside = before + length <= self.max_length - 2
        return slice(1 + before, 1 + before + length if inside else 1 + before)

    def _sequences(self, ids: Tensor, logits: Tensor) -> list[tuple[int, ...]]:
        """Token sequences that might stand for a word, of guesses `(pieces, k)`, likeliest first."""
        if len(ids) == 1:
            likely = [self.threshold is None or logit >= self.threshold for logit in logits[0].tolist()]
            count = likely.index(False) if False in likely else len(likely)
            return [(token,) for token in ids[0, :count].tolist()]
        return list(islice(product(*ids[:_PIECES, :_GUESSES].tolist()), _COMBINATIONS)) if len(ids) else []

    def _words(self, model: MaskedLM, groups: Sequence[Sequence[tuple[int, ...]]]) -> list[list[str]]:
        """The words that groups of token sequences spell, those of several pieces by rising loss of the model."""
        joined = list(dict.fromkeys(sequence for group in groups for sequence in group if len(sequence) > 1))
        loss = dict(zip(joined, model.losses(joined), strict=True))
        spelled = [[model.word(ids) for ids in sorted(group, key=lambda ids: loss.get(ids, 0))] for group in groups]
        return [
            [word for word in dict.fromkeys(group) if word and "##" not in word and word not in STOP_WORDS]
            for group in spelled
        ]
