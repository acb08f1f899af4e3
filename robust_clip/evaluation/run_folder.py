"""The folder of one run: begun once, gone on from when asked, and never mixed with another run's."""

import json
import logging
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from .examples import FOLDER as EXAMPLES
from .protocol import Protocol
from .records import OURS, library_versions, write_json
from .retrieval_protocol import RetrievalProtocol

logger = logging.getLogger(__name__)
RowType = TypeVar("RowType")

_VERSION = "version"  # beside an identity, of the code that measures


class RunFolder(ABC, Generic[RowType]):
    """The folder of one run, `root/dataset-split/protocol`: `parts/` while it runs, then a row, of type `RowType`.

    Args:
        root: Folder for all records of a model.
        dataset: Name of the data set.
        split: Its split.
        protocol: What is measured.

    Attributes:
        folder: Where all of it lies.
        measured: What errors call a run.
        row_file: Name of the file with the row.
        part_files: Pattern of the names of parts.
    """

    measured: ClassVar[str]
    row_file: ClassVar[str]
    part_files: ClassVar[str]

    def __init__(self, root: str | Path, dataset: str, split: str, protocol: Protocol | RetrievalProtocol) -> None:
        self._root = Path(root)
        self.folder = self._root / re.sub(r"[^\w.-]+", "_", f"{dataset}-{split}") / protocol.folder
        self._parts = self.folder / "parts"
        self._identity = self.folder / "identity.json"
        self._row = self.folder / self.row_file

    def require_new(self) -> None:
        """Refuse a folder that holds results.

        Raises:
            ValueError: If it does.
        """
        if self._has_results():
            run = "a finished" if self._row.exists() else "an unfinished"
            raise ValueError(f"{self.folder} holds {run} run: go on from it with --resume, or give another directory")

    def begin(self, identity: dict[str, Any], resume: bool) -> RowType | None:
        """Make the folder ready.

        Args:
            identity: Fields of the row to be that say what is measured, in the types of JSON.
            resume: Go on from the parts that are there, or take the finished row.

        Returns:
            The row, if it is finished already.

        Raises:
            ValueError: If there are results and `resume` is not set, if they are of another run, if parts of it were
                measured by other code than this, if other rows in the root are of other weights of the same name, or
                if the folder cannot be written.
        """
        require_writable(self.folder)
        if not resume:
            self.require_new()
        self._require_same_weights(identity["model"])
        version, begun = library_versions()[OURS], self._has_results()
        if begun:
            found = _read(self._row if self._row.exists() else self._identity)
            if "settings" not in found["model"]:  # of before these were recorded
                found["model"]["settings"] = identity["model"].get("settings")
            if unlike := "; ".join(differences(found, identity)):
                raise ValueError(f"{self.folder} holds another {self.measured}: {unlike}. Give another directory")
            if self._row.exists():
                if (earlier := found.get("versions", {}).get(OURS, "unknown")) != version:
                    logger.warning("%s was measured by %s %s, and this is %s.", self.folder, OURS, earlier, version)
                return self._read_row()
            if (earlier := found.get(_VERSION, "unknown")) != version:
                raise ValueError(
                    f"{self.folder} holds parts measured by {OURS} {earlier}, and this is {version}: go on with that "
                    "one, give another directory, or remove this one"
                )
        with advice(self.folder):
            if not begun and (self.folder / EXAMPLES).exists():
                shutil.rmtree(self.folder / EXAMPLES)  # of a run that was killed before its first part
            self._parts.mkdir(exist_ok=True)
            write_json(self._identity, identity | {_VERSION: version})
        return None

    def _require_same_weights(self, model: dict[str, Any]) -> None:
        """Refuse a root that has rows of weights which only their name has in common with these.

        No report could tell the two apart.
        """
        for file in set(self._root.glob(f"*/*/{self.row_file}")) - {self._row}:
            found = _read(file)["model"]
            if found["id"] == model["id"] and found["revision"] != model["revision"]:
                raise ValueError(
                    f"{file.parent} holds {model['id']} with other weights: revision is {found['revision']!r} there "
                    f"and {model['revision']!r} here. Give another directory"
                )

    @abstractmethod
    def _read_row(self) -> RowType:
        """The finished row."""

    def _drop_parts(self) -> None:
        """Remove what the finished row takes the place of."""
        self._identity.unlink()
        shutil.rmtree(self._parts)

    def _has_results(self) -> bool:
        return self._row.exists() or any(self._parts.glob(self.part_files))


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): remove {file.parent}, or give another directory") from error
    return found


@contextmanager
def advice(place: str | Path, way: str = "--resume") -> Iterator[None]:
    """Say what to do where a write fails in the middle of a run, which is gone on with by `way`.

    Raises:
        ValueError: If it does; with the `place` that could not be written to.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"cannot write to {place} ({error.strerror}); what was written before is whole: make room, then go on "
            f"with {way}"
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


def require_records(folder: str | None, resume: bool) -> None:
    """Look at where the records of a run are to lie, before it begins.

    Raises:
        ValueError: If there is nothing that could be gone on from, or the folder cannot be written to.
    """
    if folder:
        require_writable(folder)
    elif resume:
        raise ValueError("--resume goes on from records: give their folder as --records")


def differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """What differs between two values of JSON, leaf by leaf; what a row says beyond its identity is none.

    Nor is the prose about where a protocol comes from.
    """
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*wanted, *(found if name else ())]):
            leaf = f"{name}.{key}".lstrip(".")
            if leaf != "protocol.source":
                yield from differences(found.get(key), wanted.get(key), leaf)
    elif found != wanted:
        yield f"{name} is {found!r} there and {wanted!r} here"
