"""`robust-clip models`: published robust CLIPs, and whether they load."""

import argparse
import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from robust_clip.hub.registry import CHECKPOINTS

_NOTE = "What loads is in a format that the converter reads; that is tested on random models, not on these files."


def run(args: argparse.Namespace) -> int:
    """Prints the table, or JSON."""
    if args.json:
        rows = {name: dataclasses.asdict(row) | {"status": row.status} for name, row in CHECKPOINTS.items()}
        print(json.dumps(rows, indent=2))
    else:
        print("\n".join(_table()))
    return 0


def _table() -> Iterable[str]:
    header = ("id or file", "format", "architecture", "activation", "method", "epsilon", "paper", "licence")
    cells = [(*header, "status", "not verified")] + [
        (
            *(name, row.format, row.architecture, row.hidden_act or "in its config", row.method, row.epsilon),
            *(row.paper or "-", row.licence, row.status, row.unverified or "-"),
        )
        for name, row in CHECKPOINTS.items()
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    yield from ("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)
    yield f"\n{_NOTE}"


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("models", help="list published robust CLIPs", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)
