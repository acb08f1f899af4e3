"""A repository of a data set: on the Hub, or a folder laid out as it is there."""

import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

from .class_names import split_lines

_UNREACHABLE = (ConnectionError, FileNotFoundError, HfHubHTTPError)


@dataclass(frozen=True)
class Repository:
    """Reads rows and small text files.

    Args:
        hub_id: Owner and name.
        folder: A folder that stands in for it.
    """

    hub_id: str
    folder: Path | None = None

    def class_names(self, required: bool = False) -> list[str] | None:
        """The lines of its `classnames.txt`, if there is one.

        Args:
            required: Whether a Hub that cannot be asked is an error; else it counts as having none.

        Raises:
            ValueError: If the Hub cannot be asked and the file is required.
        """
        try:
            text = self._text("classnames.txt")
        except LocalEntryNotFoundError as error:
            if required:
                raise self._unreachable(error) from error
            return None
        return split_lines(text) if text else None

    def load(self, split: str, first: int | None = None) -> datasets.Dataset:
        """Rows of a repository in Parquet or in another form that `datasets` knows.

        Args:
            split: As the repository calls it; several may be joined with `+`.
            first: How many rows to stream, in place of downloading all.

        Raises:
            ValueError: If the repository cannot be reached or read, or has no such split (those it has are listed).
        """
        source = str(self.folder or self.hub_id)
        try:
            if first is not None:
                return head(datasets.load_dataset(source, split=split, streaming=True), first)
            return datasets.load_dataset(source, split=split)
        except _UNREACHABLE as error:
            raise self._unreachable(error) from error
        except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
            known = _splits(source)
            if known and not set(split.split("+")) <= set(known):
                raise ValueError(f"{source} has no split {split!r}; it has {', '.join(known)}.") from error
            raise ValueError(f"{source} cannot be read: {error.__cause__ or error}") from error

    def load_shards(self, split: str, first: int | None = None) -> datasets.Dataset:
        """Rows of a repository laid out by CLIP_benchmark, in the order of its shards; no other split is downloaded.

        Left to itself, `datasets` downloads every split, reads shard 10 before shard 2, and takes a repository with
        one shard for its text files.

        Args:
            split: `train` or `test`.
            first: How many rows to stream.

        Raises:
            ValueError: As `load`, or if shards are missing.
        """
        try:
            files = self._downloaded(split) if self.folder or first is None else self._addresses(split)
        except _UNREACHABLE as error:
            raise self._unreachable(error) from error
        shards: dict[str, Any] = {"data_files": {"train": files}, "split": "train"}
        try:
            if first is not None:
                return head(datasets.load_dataset("webdataset", **shards, streaming=True), first)
            return datasets.load_dataset("webdataset", **shards)
        except _UNREACHABLE as error:
            raise self._unreachable(error) from error
        except (datasets.exceptions.DatasetGenerationError, tarfile.TarError, ValueError) as error:
            # A shard without examples is one of these, too.
            raise ValueError(f"{self.folder or self.hub_id} cannot be read: {error.__cause__ or error}") from error

    def _addresses(self, split: str) -> list[str]:
        shards = self._text(f"{split}/nshards.txt")
        if shards is None:
            raise self._no_split(split, HfApi().list_repo_files(self.hub_id, repo_type="dataset"))
        return [f"hf://datasets/{self.hub_id}/{split}/{shard}.tar" for shard in range(int(shards))]

    def _downloaded(self, split: str) -> list[str]:
        patterns = [f"{split}/*", "*.txt"]
        folder = self.folder or Path(snapshot_download(self.hub_id, repo_type="dataset", allow_patterns=patterns))
        files = shard_files(folder / split)
        if not files and self.folder is None:
            raise self._no_split(split, HfApi().list_repo_files(self.hub_id, repo_type="dataset"))
        if not files:
            raise self._no_split(split, [file.relative_to(folder).as_posix() for file in folder.glob("*/*.tar")])
        number = folder / split / "nshards.txt"
        if number.is_file() and int(number.read_text()) != len(files):
            raise ValueError(
                f"{folder / split} holds {len(files)} shards where its nshards.txt says {number.read_text().strip()}; "
                "complete the download."
            )
        return files

    def _text(self, path: str) -> str | None:
        if self.folder is not None:
            file = self.folder / path
            return file.read_text(encoding="utf-8") if file.is_file() else None
        try:
            return Path(hf_hub_download(self.hub_id, path, repo_type="dataset")).read_text(encoding="utf-8")
        except LocalEntryNotFoundError:
            # A kind of the next, but nothing is known of the file: the Hub cannot be asked.
            raise
        except EntryNotFoundError:
            return None

    def _no_split(self, split: str, files: list[str]) -> ValueError:
        known = sorted({file.split("/")[0] for file in files if re.fullmatch(r"[^/]+/[^/]+\.tar", file)})
        return ValueError(f"{self.folder or self.hub_id} has no split {split!r}; it has {', '.join(known) or 'none'}.")

    def _unreachable(self, error: Exception) -> ValueError:
        if self.folder is not None:
            return ValueError(f"{self.folder} stands in for {self.hub_id} and cannot be read: {error}")
        return ValueError(
            f"The data set {self.hub_id!r} cannot be reached on the Hub ({error}). Check the name and the network, or "
            "give the path of a local copy."
        )


def _splits(source: str) -> list[str]:
    try:
        return list(datasets.get_dataset_split_names(source))
    except ValueError:
        return []


def shard_files(folder: Path) -> list[str]:
    """The shards in a folder, shard 2 before shard 10."""
    files = sorted(folder.glob("*.tar"), key=lambda file: [int(n) for n in re.findall(r"\d+", file.stem)] or [-1])
    return [str(file.absolute()) for file in files]


def head(stream: Any, first: int) -> datasets.Dataset:
    """The first rows of a stream, undecoded, as a data set that can be read in any order."""
    stream = stream.decode(False)
    return datasets.Dataset.from_list(list(stream.take(first)), features=stream.features)
