"""What a measurement of retrieval leaves behind: a row of recalls, a table of pairs, and parts while it runs."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from .recall import recalls
from .records import library_versions, write_json
from .retrieval_protocol import Mode
from .retrieval_search import Attacked
from .run_folder import RunFolder, advice


@dataclass(frozen=True)
class RetrievalRow:
    """The result of one measurement of retrieval; two rows are equal if all but `seconds` and `finished` is.

    Args:
        model: `id` and `revision`, as in `Row`.
        dataset: `name`, `split`, `revision` of the images, and `captions`, a digest of all captions measured.
        protocol: `RetrievalProtocol.as_dict()`.
        attack: As written in tables, such as `sga-leaf`.
        threat_model: As written in tables, such as `linf 4/255`; `None` if no image was attacked.
        seed: Of the choice of images and of all attacks.
        n_images: Images measured.
        n_captions: Captions measured.
        truncated: Captions longer than the context of the text tower, which sees only their beginning.
        recalls: For each mode (`clean`, `images`, `captions`, `both`, see `RetrievalProtocol`), each direction
            (`image_to_text`, over images, and `text_to_image`, over captions) and each of `R@1`, `R@5` and `R@10`:
            `recall` in [0, 1], and `interval`, its 95 % Wilson interval. In a gallery of at most K entries (captions
            for `image_to_text`, images for `text_to_image`) R@K is 1, whatever the model.
        versions: Of the libraries that the numbers depend on.
        seconds: Spent, those of killed runs on finished parts included.
        finished: Date and time, UTC, ISO 8601.
    """

    model: dict[str, Any]
    dataset: dict[str, str]
    protocol: dict[str, Any]
    attack: str
    threat_model: str | None
    seed: int
    n_images: int
    n_captions: int
    truncated: int
    recalls: dict[str, dict[str, dict[str, dict[str, Any]]]]
    versions: dict[str, str]
    seconds: float = field(compare=False)
    finished: str = field(compare=False)

    @classmethod
    def measured(
        cls, identity: dict[str, Any], ranks: Mapping[Mode, dict[str, Tensor]], seconds: float
    ) -> "RetrievalRow":
        """Count ranks.

        Args:
            identity: What the row says of what was measured: its fields from `model` to `truncated`.
            ranks: By mode and direction, see `retrieval_ranks`.
            seconds: That they took.
        """
        return cls(
            **identity,
            recalls={mode: {way: recalls(found) for way, found in ways.items()} for mode, ways in ranks.items()},
            versions=library_versions(),
            seconds=round(seconds, 3),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def read(cls, path: str | Path) -> "RetrievalRow":
        """Read a row of a file.

        Raises:
            ValueError: If the file is not a row.
        """
        try:
            return cls(**json.loads(Path(path).read_text()))
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{path} is not a row of retrieval ({error})") from error


class RetrievalStore(RunFolder[RetrievalRow]):
    """The folder of one measurement: `parts/` while it runs, then `pairs.parquet` and `retrieval.json`.

    Args:
        root: Folder for all records of a model.
        dataset: Name of the data set.
        split: Its split.
        protocol: What is measured.
    """

    measured = "measurement"
    row_file = "retrieval.json"
    part_files = "*.safetensors"

    def write(self, stage: Mode, first: int, attacked: Attacked, seconds: float) -> None:
        """Keep a part: what a stage made of the pairs from position `first`, and the seconds it took."""
        path = self._part(stage, first)
        notes = {"captions": json.dumps(attacked.captions), "seconds": str(seconds)}
        images = {str(place): image.contiguous().clone() for place, image in enumerate(attacked.images)}
        with advice(self.folder):
            # Its own writer raises an error of its own kind on a full disk.
            path.with_suffix(".unfinished").write_bytes(save(images, notes))
            os.replace(path.with_suffix(".unfinished"), path)

    def read(self, stage: Mode, first: int) -> tuple[Attacked, float] | None:
        """The part of a stage that begins at position `first`, and the seconds it took, if it was kept."""
        path = self._part(stage, first)
        if not path.exists():
            return None
        with safe_open(path, "pt") as part:
            images = [part.get_tensor(str(place)) for place in range(len(part.keys()))]
            notes = part.metadata()
        return Attacked(images, json.loads(notes["captions"])), float(notes["seconds"])

    def finish(self, row: RetrievalRow, pairs: Sequence[dict[str, Any]]) -> None:
        """Put the row and the table of pairs in place of the parts."""
        with advice(self.folder):
            unfinished = self.folder / "pairs.unfinished"
            pq.write_table(pa.Table.from_pylist(list(pairs)), unfinished)
            os.replace(unfinished, self.folder / "pairs.parquet")
            write_json(self._row, asdict(row))
        self._drop_parts()

    def _part(self, stage: Mode, first: int) -> Path:
        return self._parts / f"{stage}-{first:09d}.safetensors"

    def _read_row(self) -> RetrievalRow:
        return RetrievalRow.read(self._row)
