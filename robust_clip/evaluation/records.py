"""What an evaluation leaves behind: a row of results and a table of samples."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .metrics import wilson_interval
from .own_version import commit_suffix

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("label", pa.int64()),
        pa.field("clean_prediction", pa.int64()),
        pa.field("adversarial_prediction", pa.int64()),
        pa.field("broken_by", pa.string()),
        pa.field("withstood", pa.int64()),
    ]
)
OURS = "robust-clip"
LIBRARIES = (OURS, "torch", "transformers", "accelerate", "datasets", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class Sample:
    """What became of one image.

    Args:
        index: Its row in the split.
        label: True class; like all that follows `None` for an image that could not be read and was skipped.
        clean_prediction: Class predicted on the clean image.
        adversarial_prediction: Class predicted on the last adversarial image tried, so the one that broke it if one
            did; `None` if it was not attacked, having been wrong from the start or for want of an attack.
        broken_by: Name of the attack that broke it, from `Protocol.attack_names`; `None` if none did.
        withstood: How many attacks it stood up to.
    """

    index: int
    label: int | None = None
    clean_prediction: int | None = None
    adversarial_prediction: int | None = None
    broken_by: str | None = None
    withstood: int = 0

    def through(self, attacks: int) -> bool:
        """Whether nothing is left to do: it is unreadable, wrong, broken, or has stood up to all `attacks`."""
        return not self.robust or self.withstood == attacks

    @property
    def skipped(self) -> bool:
        """Whether the image could not be read."""
        return self.clean_prediction is None

    @property
    def clean(self) -> bool:
        """Whether the clean image is classified rightly."""
        return self.label is not None and self.clean_prediction == self.label

    @property
    def robust(self) -> bool:
        """Whether the clean image and every adversarial image tried are classified rightly."""
        return self.clean and self.broken_by is None


@dataclass(frozen=True)
class Row:
    """The result of one evaluation; cards, tables and plots are rendered from rows and from nothing else.

    Two rows are equal if all but `seconds`, `finished` and `defence_cost` is.

    Args:
        model: `id` and `revision`. That is `sha256:` and the digest of the weights file, `memory-sha256:` and a digest
            of the tensors in memory, or a commit on the Hub, see `checkpoint_revision`; so one model may have several.
            And `settings`: what a classifier depends on beside its weights; older rows lack them.
        dataset: `name`, `split` and `revision`, `templates` and `prompts`, a digest of all class prompts.
        protocol: `Protocol.as_dict()`.
        threat_model: As written in tables, such as `linf 4/255`; `None` if nothing was attacked.
        seed: Of the choice of samples and of the random starts.
        n: Images measured.
        skipped: Images that could not be read; they count in no accuracy.
        clean_accuracy: In [0, 1].
        clean_interval: Its 95 % Wilson interval.
        robust_accuracy: In [0, 1], over all `n`; `None` if nothing was attacked.
        robust_interval: Its 95 % Wilson interval.
        checks: What sanity checks found wrong; empty if all held.
        versions: Of the libraries that the number depends on, see `library_versions`.
        seconds: Spent by all processes together, those of killed runs included.
        finished: Date and time, UTC, ISO 8601.
        substituted: What of the protocol was changed or left out for want of classes.
        attacks: Names of the attacks that were run, in order, as samples call them.
        defence_cost: What a test-time defence costs beside the undefended classifier, see `defence_cost.measure`.
    """

    model: dict[str, Any]
    dataset: dict[str, Any]
    protocol: dict[str, Any]
    threat_model: str | None
    seed: int
    n: int
    skipped: int
    clean_accuracy: float
    clean_interval: tuple[float, float]
    robust_accuracy: float | None
    robust_interval: tuple[float, float] | None
    checks: list[str]
    versions: dict[str, str]
    seconds: float = field(compare=False)
    finished: str = field(compare=False)
    substituted: list[str] = field(default_factory=list)
    attacks: list[str] = field(default_factory=list)
    defence_cost: dict[str, Any] | None = field(default=None, compare=False)

    @classmethod
    def measured(
        cls,
        identity: dict[str, Any],
        samples: Sequence[Sample],
        seconds: float,
        checks: Sequence[str] = (),
        defence_cost: dict[str, Any] | None = None,
    ) -> "Row":
        """Count samples.

        Args:
            identity: What the row says of what was measured: its fields from `model` to `seed`, `substituted`,
                `attacks`.
            samples: All of them.
            seconds: That they took.
            checks: What sanity checks found wrong.
            defence_cost: Of a test-time defence, if there is one.

        Raises:
            ValueError: If no image could be read.
        """
        n = sum(not sample.skipped for sample in samples)
        if n == 0:
            raise ValueError(f"none of the {len(samples)} images of {identity['dataset']['name']} could be read")
        clean, robust = sum(sample.clean for sample in samples), sum(sample.robust for sample in samples)
        attacked = bool(identity["protocol"]["attacks"] or identity["protocol"].get("text_attack"))
        return cls(
            **identity,
            n=n,
            skipped=len(samples) - n,
            clean_accuracy=clean / n,
            clean_interval=wilson_interval(clean, n),
            robust_accuracy=robust / n if attacked else None,
            robust_interval=wilson_interval(robust, n) if attacked else None,
            checks=list(checks),
            versions=library_versions(),
            seconds=round(seconds, 3),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            defence_cost=defence_cost,
        )

    def write(self, path: str | Path) -> None:
        """Write the row as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: str | Path) -> "Row":
        """Read a row that `write` wrote.

        Raises:
            ValueError: If the file is not a row.
        """
        try:
            fields = json.loads(Path(path).read_text())
            for name in ("clean_interval", "robust_interval"):
                fields[name] = tuple(fields[name]) if fields[name] else None
            return cls(**fields)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a row of results ({error})") from error


def percent(accuracy: float | None, interval: Sequence[float] | None, *, missing: str, digits: int = 1) -> str:
    """An accuracy in % with its interval, as tables and cards write it; `missing` where nothing was measured.

    >>> percent(0.5, (0.25, 0.75), missing="")
    '50.0 [25.0, 75.0]'
    """
    if accuracy is None or interval is None:
        return missing
    value, low, high = (f"{100 * share:.{digits}f}" for share in (accuracy, *interval))
    return f"{value} [{low}, {high}]"


def latest(samples: Iterable[Sample]) -> list[Sample]:
    """The furthest state of each image, by its row in the split.

    >>> [sample.withstood for sample in latest([Sample(3, 0, 0), Sample(3, 0, 0, 0, None, 1)])]
    [1]
    """
    found: dict[int, Sample] = {}
    for sample in samples:
        before = found.get(sample.index)
        if before is None or (sample.withstood, sample.broken_by or "") > (before.withstood, before.broken_by or ""):
            found[sample.index] = sample
    return [found[index] for index in sorted(found)]


def library_versions() -> dict[str, str]:
    """Versions of the libraries that numbers depend on, those of this environment; of this one with its commit."""
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # such as this package, run from a checkout
            found[library] = "not installed"
    found[OURS] += commit_suffix()
    return found


def write_samples(path: str | Path, samples: Iterable[Sample], metadata: dict[str, str] | None = None) -> None:
    """Write samples as parquet, with notes in its schema; at `path` there is never less than the whole."""
    table = pa.Table.from_pylist([asdict(sample) for sample in samples], SAMPLE_SCHEMA.with_metadata(metadata))
    unfinished = Path(path).with_suffix(".unfinished")
    pq.write_table(table, unfinished)
    os.replace(unfinished, path)


def read_samples(path: str | Path) -> tuple[list[Sample], dict[str, str]]:
    """Samples and notes that `write_samples` wrote."""
    table = pq.read_table(path)
    notes = table.schema.metadata or {}
    return [Sample(**sample) for sample in table.to_pylist()], {k.decode(): v.decode() for k, v in notes.items()}


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write JSON; at `path` there is never less than the whole."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write a text; at `path` there is never less than the whole."""
    unfinished = Path(path).with_suffix(".unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def duration(seconds: float) -> str:
    """Time as people say it.

    >>> duration(42.3), duration(100), duration(4000)
    ('42 seconds', '1.7 minutes', '1.1 hours')
    """
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
