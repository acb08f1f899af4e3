"""Records on disk while an evaluation runs: whatever kills it, all but the part in the making is kept."""

import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from .protocol import Protocol
from .records import Row, Sample, latest, read_samples, write_json, write_samples
from .run_folder import RunFolder, advice

BATTERY = "battery.json"


class RecordStore(RunFolder[Row]):
    """The folder of one evaluation: `parts/` while it runs, then `samples.parquet` and `row.json`.

    `battery.json` beside them says that the row's checks include the whole battery, and what that found.

    Args:
        root: Folder for all records of a model.
        dataset: Name of the data set.
        split: Its split.
        protocol: What is measured.
    """

    measured = "evaluation"
    row_file = "row.json"
    part_files = "part-*.parquet"

    def __init__(self, root: str | Path, dataset: str, split: str, protocol: Protocol) -> None:
        super().__init__(root, dataset, split, protocol)
        self._battery = self.folder / BATTERY

    def append(self, samples: list[Sample], seconds: float) -> None:
        """Write a part: states of samples that no other part holds, and the seconds they took."""
        first = min(sample.index for sample in samples)
        name = f"part-{first:09d}-{uuid.uuid4().hex[:8]}.parquet"  # a sample may be the first of several parts
        with advice(self.folder):
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
        with advice(self.folder):
            self._battery.unlink(missing_ok=True)  # of a run that was killed before its row was written
            if battery is not None:
                self._write_battery(battery)
            write_samples(self.folder / "samples.parquet", samples)
            row.write(self._row)
        self._drop_parts()

    def amend(self, row: Row, battery: Sequence[str]) -> None:
        """Put a row with the findings of the battery in place of the finished one."""
        with advice(self.folder):
            row.write(self._row)
            self._write_battery(battery)

    def has_battery(self) -> bool:
        """Whether the checks of the row include the whole battery."""
        return self._battery.exists()

    def _write_battery(self, findings: Sequence[str]) -> None:
        write_json(self._battery, {"found": list(findings)})

    def _read_row(self) -> Row:
        return Row.read(self._row)


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
