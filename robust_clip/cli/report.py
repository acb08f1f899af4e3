"""`robust-clip report`: measured rows as a table in Markdown."""

import argparse
import sys
from pathlib import Path
from typing import Any

from robust_clip.evaluation.tables import insert_table, markdown_table, read_rows


def run(args: argparse.Namespace) -> int:
    """Prints the table, or puts it into a file."""
    table = markdown_table(row for folder in args.rows for row in read_rows(folder))
    if args.into:
        insert_table(args.into, table)
    else:
        sys.stdout.write(table + "\n")
    return 0


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("report", help="measured rows as a table", description=__doc__)
    parser.add_argument("rows", type=Path, nargs="+", help="folders with rows, as evaluate --records writes them")
    parser.add_argument("--into", type=Path, help="Markdown file with the markers of a table; printed if not given")
    parser.set_defaults(run=run)
