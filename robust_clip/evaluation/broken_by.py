"""Which attack broke what: the shares of images that each attack of a protocol was the first to break."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isclose
from pathlib import Path

from .records import Row, Sample, read_samples
from .side_by_side import epsilon_of

WRONG, ROBUST = "wrong clean", "robust"


@dataclass(frozen=True)
class BrokenLine:
    """What became of the images of one row.

    Args:
        row: The row.
        shares: Of all images measured, in [0, 1], one for each column of the table and together 1; `None` for an
            attack that was not run, and altogether where samples were not kept.
    """

    row: Row
    shares: tuple[float | None, ...] | None


@dataclass(frozen=True)
class BrokenTable:
    """What became of the images of rows of one protocol.

    Args:
        columns: `wrong clean`, the attacks in order, `robust`.
        lines: By data set, model and epsilon.
    """

    columns: tuple[str, ...]
    lines: tuple[BrokenLine, ...]

    @property
    def kept(self) -> bool:
        """Whether the samples of any row were kept."""
        return any(line.shares for line in self.lines)

    @property
    def groups(self) -> list[tuple[str, list[BrokenLine]]]:
        """Lines by data set."""
        return [(name, list(lines)) for name, lines in groupby(self.lines, lambda line: str(line.row.dataset["name"]))]


def broken_table(records: Sequence[tuple[Row, Sequence[Sample] | None]]) -> BrokenTable:
    """Count the samples of rows of one protocol.

    Args:
        records: Each row with its samples, `None` where they were not kept.

    Raises:
        ValueError: If samples do not give the accuracies of their row.
    """
    counted = [(row, None if samples is None else count_fates(row, samples)) for row, samples in records]
    found = {name for row, fates in counted for name in [*row.attacks, *(fates or ())] if name not in (WRONG, ROBUST)}
    names = sorted(found, key=lambda name: (_position(name), name))
    lines = [BrokenLine(row, None if fates is None else _shares(row, fates, names)) for row, fates in counted]
    lines.sort(key=lambda line: (line.row.dataset["name"], line.row.model["id"], epsilon_of(line.row)))
    return BrokenTable((WRONG, *names, ROBUST), tuple(lines))


def count_fates(row: Row, samples: Sequence[Sample]) -> Counter[str]:
    """How many images were `wrong clean`, broken by each attack by its name, or `robust`.

    Raises:
        ValueError: If that does not give the accuracies of the row.
    """
    fates: Counter[str] = Counter()
    for sample in samples:
        if not sample.skipped:
            fates[(sample.broken_by or ROBUST) if sample.clean else WRONG] += 1
    n = fates.total()
    robust = row.clean_accuracy if row.robust_accuracy is None else row.robust_accuracy
    clean_is = n == row.n and isclose((n - fates[WRONG]) / n, row.clean_accuracy, abs_tol=1e-9)
    if not clean_is or not isclose(fates[ROBUST] / n, robust, abs_tol=1e-9):
        raise ValueError(
            f"the samples kept for {row.model['id']} on {row.dataset['name']} are not those of the row: they are {n} "
            f"images of which {fates[ROBUST]} are robust, the row says {row.n} and {robust * row.n:.0f}"
        )
    return fates


def read_kept_samples(folder: str | Path) -> list[Sample] | None:
    """The samples beside a row; `None` if they were not kept.

    Raises:
        ValueError: If the file cannot be read.
    """
    path = Path(folder) / "samples.parquet"
    if not path.exists():
        return None
    try:
        return read_samples(path)[0]
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a table of samples ({error})") from error


def _shares(row: Row, fates: Mapping[str, int], names: Sequence[str]) -> tuple[float | None, ...]:
    ran = {*fates, *row.attacks}
    by_attack = [fates.get(name, 0) / row.n if name in ran else None for name in names]
    return (fates.get(WRONG, 0) / row.n, *by_attack, fates.get(ROBUST, 0) / row.n)


def _position(name: str) -> int:
    """Of an attack in its protocol, as its name begins; 0 for anything else."""
    number = re.match(r"\d+", name)
    return int(number[0]) if number else 0
