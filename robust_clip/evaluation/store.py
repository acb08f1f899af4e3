"""Records on disk while an evaluation runs: whatever kills it, all but the part in the making is kept."""

import json
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .protocol import Protocol
from .records import Row, Sample, latest, read_samples, write_json, write_samples


class RecordStore:
    """The folder of one evaluation: `parts/` while it runs, then `samples.parquet` and `row.json`.

    `battery.json` beside them says that the row's checks include the whole battery, and what that found.

    Args:
        root: Folder for all records of a model.
        dataset: Name of the data set.
        split: Its split.
        protocol: What is measured.
    """

    def __init__(self, root: str | Path, dataset: str, split: str, protocol: Protocol) -> None:
        self.folder = Path(root) / re.sub(r"[^\w.-]+", "_", f"{dataset}-{split}") / protocol.folder
        self._parts = self.folder / "parts"
        self._identity = self.folder / "identity.json"
        self._row = self.folder / "row.json"
        self._battery = self.folder / "battery.json"

    def require_new(self) -> None:
        """Refuse a folder that holds results.

        Raises:
            ValueError: If it does.
        """
        if self._has_results():
            run = "a finished" if self._row.exists() else "an unfinished"
            raise ValueError(f"{self.folder} holds {run} run: go on from it with --resume, or give another directory")

    def begin(self, identity: dict[str, Any], resume: bool) -> Row | None:
        """Make the folder ready.

        Args:
            identity: Fields of the row to be, from `model` to `seed`.
            resume: Go on from the parts that are there, or take the finished row.

        Returns:
            The row, if it is finished already.

        Raises:
            ValueError: If there are results and `resume` is not set, if they are of another evaluation, or if the
                folder cannot be written.
        """
        require_writable(self.folder)
        if not resume:
            self.require_new()
        if self._has_results():
            found = json.loads((self._row if self._row.exists() else self._identity).read_text())
            if differences := "; ".join(_differences(found, identity)):
                raise ValueError(f"{self.folder} holds another evaluation: {differences}. Give another directory")
            if self._row.exists():
                return Row.read(self._row)
        with _advice(self.folder):
            self._parts.mkdir(exist_ok=True)
            write_json(self._identity, identity)
        return None

    def append(self, samples: list[Sample], seconds: float) -> None:
        """Write a part: states of samples that no other part holds, and the seconds they took."""
        first = min(sample.index for sample in samples)
        name = f"part-{first:09d}-{uuid.uuid4().hex[:8]}.parquet"  # a sample may be the first of several parts
        with _advice(self.folder):
            write_samples(self._parts / name, samples, {"seconds": str(seconds)})

    def read_parts(self) -> tuple[list[Sample], float]:
        """The furthest states of samples in all parts, and the seconds they took."""
        samples: list[Sample] = []
        seconds = 0.0
        for part in sorted(self._parts.glob("part-*.parquet")):
            some, notes = read_samples(part)
            samples += some
            seconds += float(notes["seconds"])
        return latest(samples), seconds

    def finish(self, row: Row, samples: Iterable[Sample], battery: Sequence[str] | None = None) -> None:
        """Put the table of samples and the row in place of the parts.

        Args:
            row: With everything that checks found.
            samples: All of them.
            battery: What the whole battery found, if it was run.
        """
        with _advice(self.folder):
            self._battery.unlink(missing_ok=True)  # of a run that was killed before its row was written
            if battery is not None:
                self._write_battery(battery)
            write_samples(self.folder / "samples.parquet", samples)
            row.write(self._row)
        self._identity.unlink()
        shutil.rmtree(self._parts)

    def amend(self, row: Row, battery: Sequence[str]) -> None:
        """Put a row with the findings of the battery in place of the finished one."""
        with _advice(self.folder):
            row.write(self._row)
            self._write_battery(battery)

    def has_battery(self) -> bool:
        """Whether the checks of the row include the whole battery."""
        return self._battery.exists()

    def _write_battery(self, findings: Sequence[str]) -> None:
        write_json(self._battery, {"found": list(findings)})

    def _has_results(self) -> bool:
        return self._row.exists() or any(self._parts.glob("part-*.parquet"))


class Journal:
    """Samples that this process has dealt with, written to the store a part at a time.

    Args:
        store: Where to; `None` keeps them in memory only.
        part_size: Finished attacks on a sample that are lost at most, in each process, when it is killed.

    Attributes:
        samples: All that were added and flushed.
        seconds: Time between the making of the journal and the last flush.
    """

    def __init__(self, store: RecordStore | None, part_size: int) -> None:
        self.samples: list[Sample] = []
        self.seconds = 0.0
        self._store = store
        self._part_size = part_size
        self._unwritten: list[Sample] = []
        self._start = time.perf_counter()

    def add(self, samples: list[Sample]) -> None:
        """Take in samples; a part is written once there are enough."""
        self._unwritten += samples
        if len(self._unwritten) >= self._part_size:
            self.flush()

    def flush(self) -> None:
        """Write what is not written."""
        if not self._unwritten:
            return
        seconds = time.perf_counter() - self._start
        if self._store:
            self._store.append(self._unwritten, seconds - self.seconds)
        self.samples += self._unwritten
        self.seconds = seconds
        self._unwritten = []


@contextmanager
def _advice(place: str | Path) -> Iterator[None]:
    """Say what to do where a write fails in the middle of a run.

    Raises:
        ValueError: If it does; with the `place` that could not be written to.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"cannot write to {place} ({error.strerror}); what was written before is whole: make room, then go on "
            "with --resume"
        ) from error


def require_writable(folder: str | Path) -> None:
    """Make a folder and a file in it, so that a long run does not end in vain.

    Raises:
        ValueError: If that fails.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"cannot write to {folder} ({error.strerror}): give another directory") from error


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """What differs between two values of JSON, leaf by leaf; what a row says beyond its identity is none."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*wanted, *(found if name else ())]):
            yield from _differences(found.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
    elif found != wanted:
        yield f"{name} is {found!r} there and {wanted!r} here"
