"""`robust-clip report`: measured rows as a table in Markdown, or as a report with all that was kept beside them."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from robust_clip.evaluation.report import read_records, report_kind, write_report
from robust_clip.evaluation.side_by_side import group_rows
from robust_clip.evaluation.tables import insert_table, markdown_table, read_rows

T = TypeVar("T")


def run(args: argparse.Namespace) -> int:
    """Writes a report or puts the table into a file, and says where; or prints the table."""
    if args.out:
        report_kind(args.out)
        write_report(read_records(args.rows), args.out)
        sys.stdout.write(f"Wrote {args.out}.\n")
        return 0
    groups = group_rows(row for folder in args.rows for row in read_rows(folder))
    deliver("\n\n".join(markdown_table(rows) for _, rows in sorted(groups.items())), args.into)
    return 0


def read_kept(folder: Path, command: str, make: Callable[[Any], T]) -> list[T]:
    """What a command's `--out` wrote into a folder, each file's content through `make`.

    Raises:
        ValueError: If there is nothing, or a file is something else.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ValueError(f"{folder} has no JSON files; measure with robust-clip {command} --out {folder}/NAME.json.")
    kept = []
    for file in files:
        try:
            kept.append(make(json.loads(file.read_text(encoding="utf-8"))))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{file} was not written by robust-clip {command} --out: {error}.") from error
    return kept


def deliver(table: str, into: Path | None) -> None:
    """Puts a table between the markers of a Markdown file and says so, or prints it."""
    if into:
        insert_table(into, table)
        table = f"Wrote the table into {into}."
    sys.stdout.write(f"{table}\n")


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("report", help="measured rows as a table or a report", description=__doc__)
    parser.add_argument("rows", type=Path, nargs="+", help="folders with rows, as evaluate --records writes them")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--into", type=Path, help="Markdown file with the markers of a table; printed if not given")
    place.add_argument("--out", type=Path, help="a report instead: an HTML page (.html) or the same as Markdown (.md)")
    parser.set_defaults(run=run)
