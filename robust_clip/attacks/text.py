"""What every text attack keeps to: each text on its own, all candidates of a round in one call of the encoder."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor
from torch.nn import functional

from robust_clip.attacks.base import Forward, eval_mode
from robust_clip.attacks.embedding import unit_divergence
from robust_clip.paper import Paper

Encode = Callable[[Sequence[str]], Tensor]
Score = Callable[[Tensor, Tensor], Tensor]
Distance = Literal["kl", "l2", "cosine"]

# Most rows of one call of `encode`: the features of a round of many thousand candidates must fit into memory.
_MOST_ROWS = 32768
# Scores as near as this are a tie. To CLIP "A" and "a" are the same, and which of them comes out an ulp higher depends
# on where they lie in a batch: the earlier candidate wins instead.
_TIE = 1e-5


@dataclass(frozen=True, eq=False)
class TextProblem:
    """What a search works on: texts, the encoder that it may ask, and the score that it climbs.

    Args:
        texts: Clean texts; the position of a text in this list is its `owner`.
        encode: Gives un-normalised features `(N, D)` of N texts.
        score: Climbed, `(N,)` of features `(N, D)` and owners `(N,)`.
        device: Where the encoder's features lie.
        seed: Of the random numbers.
    """

    texts: list[str]
    encode: Encode
    score: Score
    device: torch.device
    seed: int

    def generator(self, owner: int) -> torch.Generator:
        """Random numbers that depend on (seed, text) only."""
        digest = hashlib.blake2b(f"{self.seed}:{self.texts[owner]}".encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big"))

    def scores(self, candidates: Sequence[Sequence[str]]) -> list[Tensor]:
        """Scores of the candidates of every text, by one call of `encode` with each different candidate once.

        Args:
            candidates: For each text any number of them. Above 32768 in all they are encoded in several calls.

        Returns:
            For each text a tensor as long as its candidates, float64 on the CPU.

        Raises:
            ValueError: If features or scores have the wrong shape.
            FloatingPointError: If a score is not finite.
        """
        rows = [(text, owner) for owner, group in enumerate(candidates) for text in group]
        parts = [self._score(rows[first : first + _MOST_ROWS]) for first in range(0, len(rows), _MOST_ROWS)]
        values = torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
        return list(torch.split(values, [len(group) for group in candidates]))

    def choose(self, current: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[int]:
        """Which candidate of each text scores highest.

        Args:
            current: For each text what it is now.
            candidates: For each text what it might become.

        Returns:
            For each text 0 where none scores higher than it does now, else one more than the candidate's position.
        """
        # The current text is scored beside its candidates: what two batches give may differ in the last bit.
        contests = [[text, *group] if group else [] for text, group in zip(current, candidates, strict=True)]
        return [_first_best(scores) if len(scores) else 0 for scores in self.scores(contests)]

    def _score(self, rows: Sequence[tuple[str, int]]) -> Tensor:
        """Scores of pairs of a candidate and its owner, `(N,)`."""
        position = {text: index for index, text in enumerate(dict.fromkeys(text for text, _ in rows))}
        features = features_of(self.encode, list(position))
        features = features[torch.tensor([position[text] for text, _ in rows], device=features.device)]
        owners = torch.tensor([owner for _, owner in rows], device=features.device)
        scores = self.score(features, owners).detach().cpu().double()
        if scores.shape != (len(rows),):
            raise ValueError(f"score must give one value per candidate, ({len(rows)},), got {tuple(scores.shape)}")
        if not scores.isfinite().all():
            text = rows[int(scores.isfinite().logical_not().nonzero()[0])][0]
            raise FloatingPointError(f"the score of {text!r} is not finite; look at the encoder's features there")
        return scores


@dataclass(frozen=True, kw_only=True)
class TextAttack(ABC):
    """A search for adversarial texts; subclasses are frozen dataclasses of its parameters and define `search`.

    Args:
        distance: What is climbed where the caller gives no score of its own: how far the features of a text are from
            those of the clean one, without any label. `kl`: KL divergence between softmaxes over the dimensions of
            unit features, as MMCoA (https://huggingface.co/papers/2404.19287). `l2`: squared Euclidean distance of
            un-normalised features, as LEAF (https://huggingface.co/papers/2506.03355). `cosine`: one minus cosine.

    Attributes:
        paper: Where the search comes from.
        short_name: What records call it.
        files: Fields that may name a file or a folder.

    Raises:
        ValueError: If the distance is unknown.
    """

    paper: ClassVar[Paper]
    short_name: ClassVar[str]
    files: ClassVar[tuple[str, ...]] = ()

    distance: Distance = "kl"

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.distance not in get_args(Distance):
            known = ", ".join(get_args(Distance))
            raise ValueError(f"unknown distance {self.distance!r}, known: {known}")

    def parameters(self) -> dict[str, Any]:
        """What a row says of the fields, in the types of JSON: of a file or a folder its name and a digest."""
        found = asdict(self).items()
        told: dict[str, Any] = {name: list(value) if isinstance(value, tuple) else value for name, value in found}
        return told | {name: _name_file(told[name]) for name in self.files if isinstance(told[name], str)}

    def as_dict(self) -> dict[str, Any]:
        """What a row says about this attack."""
        return {"attack": type(self).__name__, "parameters": self.parameters()}

    def __call__(
        self, encode: Encode, texts: Sequence[str], *, seed: int = 0, score: Score | None = None
    ) -> list[str]:
        """Search for texts of higher score.

        A module given as `encode`, or whose method it is, is in eval mode meanwhile. Without `score` equal texts are
        attacked once; with it each position is attacked on its own. In both cases the result for a text depends on
        nothing but the seed, the text and its score.

        Args:
            encode: Gives un-normalised features `(N, D)` of N texts; is called without gradient, with many texts at
                once, and splits them into batches itself.
            texts: At least one, none of them blank.
            seed: Of the random numbers.
            score: What is climbed, `(N,)` of features `(N, D)` and `owner` `(N,)`, the position in `texts` of the text
                that each candidate belongs to. By default the distance from the clean features.

        Returns:
            As many texts as were given. None scores lower than the text that it was made of.

        Raises:
            ValueError: If texts, features or scores are not as above.
            FloatingPointError: If a score is not finite.
        """
        check_texts(texts)
        attacked = list(dict.fromkeys(texts)) if score is None else list(texts)
        with torch.no_grad(), eval_mode(cast(Forward, encode)):
            position = {text: index for index, text in enumerate(dict.fromkeys(texts))}
            clean = features_of(encode, list(position))
            problem = TextProblem(attacked, encode, score or self._distance_from(clean), clean.device, seed)
            found = self.search(problem)
        if len(found) != len(attacked) or not all(isinstance(text, str) for text in found):
            raise RuntimeError(f"{self!r} was given {len(attacked)} texts and did not return as many")
        return found if score is not None else [found[position[text]] for text in texts]

    def require_packages(self) -> None:  # noqa: B027 - a hook that most attacks leave empty
        """Refuse to begin without the models and packages that the search needs, if there are any.

        Raises:
            ValueError: If a model cannot be loaded.
        """

    @abstractmethod
    def search(self, problem: TextProblem) -> list[str]:
        """Find one adversarial text for each text of `problem`; runs under `no_grad`."""

    def _distance_from(self, clean: Tensor) -> Score:
        """Score that knows nothing but the clean features, `(U, D)`."""
        # Softmaxes of unit features are nearly flat: their divergence is lost in float32.
        reference, measure = clean.cpu().double(), DISTANCES[self.distance]
        return lambda features, owner: measure(reference[owner.cpu()], features.cpu().double())


def features_of(encode: Encode, texts: Sequence[str]) -> Tensor:
    """Features `(N, D)` of N texts, refused if they are of another shape.

    Args:
        encode: The encoder.
        texts: At least one.

    Raises:
        ValueError: If the encoder gives anything but one row per text.
    """
    features = encode(texts)
    if features.ndim != 2 or len(features) != len(texts):
        raise ValueError(f"encode must give one row per text, ({len(texts)}, D), got {tuple(features.shape)}")
    return features.detach()


def check_texts(texts: Sequence[str]) -> None:
    """Refuse what cannot be attacked.

    Args:
        texts: To be attacked.

    Raises:
        ValueError: If there is no text, or one is blank or no string.
    """
    if isinstance(texts, str):
        raise ValueError(f"texts must be a list of strings, got the string {texts!r}; write [{texts!r}]")
    if not len(texts):
        raise ValueError("there is no text to attack: texts is empty")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"texts must be strings, got {type(text).__name__} at position {index}")
        if not text.strip():
            raise ValueError(f"the text at position {index} is blank: drop it, or say what stands for it")


def _first_best(scores: Tensor) -> int:
    """Position of the first score that ties with the highest."""
    best = scores.max()
    return int((scores >= best - _TIE * best.abs()).nonzero()[0])


def _squared_distance(reference: Tensor, features: Tensor) -> Tensor:
    """Squared Euclidean distance of rows, `(N,)`."""
    return (features - reference).square().sum(dim=1)


def _cosine_distance(reference: Tensor, features: Tensor) -> Tensor:
    """One minus the cosine of rows, `(N,)`."""
    return 1 - functional.cosine_similarity(reference, features, dim=1)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": unit_divergence,
    "l2": _squared_distance,
    "cosine": _cosine_distance,
}


def _name_file(name: str) -> str:
    """The last part of a path, since where it stood is nobody's business, with a digest; a Hub id as it is."""
    path = Path(name)
    if not path.exists():
        return name
    weights = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
    files = [*weights, *sorted([*path.glob("*.json"), *path.glob("*.txt")])] if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return f"{path.resolve().name} (sha256:{digest.hexdigest()[:16]})"
