"""`robust-clip card`: the model card of a folder of weights, rendered from measured rows."""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from robust_clip.evaluation import Row
from robust_clip.evaluation.tables import read_rows
from robust_clip.hub import ModelFolder
from robust_clip.training.model_card import Told, make_card, rows_of_folder, write_card

from .recipe import load_recipe


def run(args: argparse.Namespace) -> int:
    """Writes `README.md` and the plots, or prints the card."""
    told = told_of(args, args.title or args.folder.resolve().name)
    rows, compared = chosen_rows(args.folder, args.rows, told.title)
    if args.stdout:
        sys.stdout.write(str(make_card(args.folder, told, rows, compared)) + "\n")
        warn_if_not_measured(args.folder, rows)
        return 0
    write_card(args.folder, told, rows, compared)
    warn_if_not_measured(args.folder, rows)
    sys.stdout.write(f"Wrote {args.folder}/README.md, from {len(rows)} rows of these weights.\n")
    return 0


def warn_if_not_measured(folder: Path, rows: Sequence[Row]) -> None:
    """Says that a card without rows has no number, and which command measures some."""
    if not rows:
        where = shlex.quote(str(folder))
        sys.stderr.write(
            f"Warning: there is no row of the weights in {folder}, so the card says that they are not measured yet. "
            f"Measure them, such as by: robust-clip evaluate --model {where} --datasets cifar10 --protocol "
            f"autoattack_standard --records {where}/records; then give this command again.\n"
        )


def told_of(args: argparse.Namespace, title: str) -> Told:
    """What the command line says of a model.

    Raises:
        ValueError: If a file that it names cannot be read, or is no recipe.
    """
    recipe, changes = None, []
    if args.recipe:
        wanted, ran = load_recipe(args.recipe), args.folder / "recipe.yaml"
        recipe = args.recipe.read_text(encoding="utf-8")
        changes = list(changes_between(wanted, load_recipe(ran))) if ran.is_file() else []
    notes = _read(args.notes) if args.notes else None
    return Told(title, args.licence, args.base_licence, notes, recipe, changes)


def chosen_rows(folder: Path, given: Path | None, title: str) -> tuple[list[Row], list[Row]]:
    """Rows of the weights in `folder`, and of others, from `given` or else from `records` in it.

    Raises:
        ValueError: If rows were given and none of them belongs to these weights.
    """
    ModelFolder.read(folder)
    source = given or folder / "records"
    if given is None and not any(source.rglob("row.json")):
        return [], []
    rows = read_rows(source)
    own, others = rows_of_folder(folder, rows, title)
    if given is not None and not own:
        found = ", ".join(sorted({f"{row.model['id']} ({row.model['revision'][:23]})" for row in rows}))
        raise ValueError(f"No row in {given} belongs to the weights in {folder}: they are of {found}.")
    return own, others


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that decide what a card says."""
    parser.add_argument("folder", type=Path, help="folder with a checkpoint, an adapter or prompts")
    parser.add_argument("--rows", type=Path, help="folder with rows, as evaluate --records writes it; DIR/records")
    parser.add_argument("--recipe", type=Path, help="recipe with the comments that cite its values; DIR/recipe.yaml")
    parser.add_argument("--licence", help="of the weights, as the Hub calls it, such as apache-2.0")
    parser.add_argument("--base_licence", help="of the checkpoint that training started from, as its source states it")
    parser.add_argument("--notes", type=Path, help="Markdown file with what stands under the title")


def changes_between(wanted: Any, found: Any, name: str = "") -> Iterator[str]:
    """What a run, or its recipe, has in place of what was wanted, value by value.

    >>> list(changes_between({"training": {"max_steps": 2}}, {"training": {"max_steps": 3, "seed": 1}}))
    ['training.max_steps: 3 instead of 2', 'training.seed: 1']
    """
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in dict.fromkeys([*wanted, *found]):
            yield from changes_between(wanted.get(key), found.get(key), f"{name}.{key}".lstrip("."))
    elif wanted != found:
        yield f"{name}: {found}" + ("" if wanted is None else f" instead of {wanted}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(f"Cannot read {path}: {error.strerror}.") from error


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("card", help="render a model card from measured rows", description=__doc__)
    add_options(parser)
    parser.add_argument("--title", help="name of the model, OWNER/NAME on the Hub; the folder's name if not given")
    parser.add_argument("--stdout", action="store_true", help="print the card, and write nothing")
    parser.set_defaults(run=run)
