"""`robust-clip datasets`: the data sets that go by a name, and whether one of them is what its row says."""

import argparse
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from robust_clip.data import DATASETS, DatasetRow, ImageDataset
from robust_clip.data.loading import load_row
from robust_clip.data.prompts import has_clip_templates
from robust_clip.data.root import names_in
from robust_clip.suggestions import instead


def run(args: argparse.Namespace) -> int:
    """Prints the table, or tries one row; a row that does not hold is an error with the reason."""
    print("\n".join([*_table(), *_own(args.root)] if args.name is None else _report(args)))
    return 0


def _own(root: str | None) -> list[str]:
    """What a folder of data sets holds."""
    names = names_in(root)
    return [] if root is None else ["", f"{root} holds {', '.join(names) or 'nothing'}."]


def _table() -> Iterable[str]:
    header = ("name", "repository", "test split", "columns", "classes", "CLIP prompts", "licence", "not confirmed")
    cells = [header] + [
        (
            name,
            row.hub_id or "(installed package)",
            row.test if row.names.repository is None else "CORRUPTION/SEVERITY",
            _columns(row),
            str(row.names.count or "-"),
            "yes" if has_clip_templates(name) else "no",
            row.licence,
            row.unconfirmed or "-",
        )
        for name, row in sorted(DATASETS.items())
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]


def _columns(row: DatasetRow) -> str:
    return ", ".join(column for column in (row.image or "(the image)", row.label, row.captions) if column)


def _report(args: argparse.Namespace) -> Iterable[str]:
    """What a row turned out to be.

    Raises:
        ValueError: If there is no such row, or it does not hold.
    """
    if args.name not in DATASETS:
        raise ValueError(f"No data set {args.name!r} in the table{instead(args.name, sorted(DATASETS), 'known')}")
    row = DATASETS[args.name]
    if args.root and row.hub_id and Path(args.root, args.name).exists() and not Path(args.root, row.hub_id).is_dir():
        raise ValueError(
            f"{args.root} holds {args.name} under its own name, which evaluate and train read as it is; what is "
            f"checked is the row of {row.hub_id}: leave --root out to ask the Hub, or lay out {args.root}/{row.hub_id}"
        )
    # Names in a column are read off all rows.
    first = None if row.names.column else args.examples
    dataset = load_row(args.name, args.split, root=args.root, first=first)
    images = [_describe(dataset, position) for position in range(min(args.examples, len(dataset)))]
    facts = {
        "repository": row.hub_id or "(installed package)",
        "split": f"{dataset.split}, {len(dataset)} examples read",
        "columns": ", ".join(dataset.rows.column_names),
        "used": ", ".join(c for c in (dataset.image_column, dataset.label_column, dataset.text_column) if c),
        "classes": _some(dataset.class_names) if dataset.class_names else "none",
        "template": dataset.templates[0] if dataset.class_names else "-",
        "captions": _some(dataset.captions[0]) + " for the first image" if dataset.captions else "none",
        "images": "; ".join(images),
        "licence": row.licence,
        "not confirmed": row.unconfirmed or "-",
    }
    return [f"{args.name} holds.", *(f"  {what:<14}{fact}" for what, fact in facts.items())]


def _some(texts: Iterable[str]) -> str:
    listed = list(texts)
    return f"{len(listed)}: {', '.join(listed[:5])}{', ...' if len(listed) > 5 else ''}"


def _describe(dataset: ImageDataset, position: int) -> str:
    """Size and mode of an image, which is decoded for that."""
    example = dataset[position]
    cell = example["image"] or {"bytes": None, "path": None}
    data = cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"])
    try:
        with Image.open(data) as image:
            image.load()
            return f"{image.width}x{image.height} {image.mode}"
    except (OSError, AttributeError, SyntaxError) as error:
        raise ValueError(f"{example['source']}: the image cannot be read ({error}).") from error


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("datasets", help="list data sets, or check that one loads", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="list|check")
    listing = commands.add_parser("list", help="print the table")
    listing.add_argument("--root", help="folder of data sets whose sub-folders are listed, too")
    listing.set_defaults(run=run, name=None)
    check = commands.add_parser(
        "check",
        help="load the first examples of a data set and print what they are",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    check.add_argument("name", help="name in the table")
    check.add_argument("--split", default="test", help="split, such as train, or gaussian_noise/3 for imagenet_c")
    check.add_argument("--root", help="folder with OWNER/NAME laid out as the repository is, in place of the Hub")
    check.add_argument("--examples", type=int, default=4, help="how many examples to load")
    check.set_defaults(run=run)
