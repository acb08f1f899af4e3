"""Tables in Markdown, rendered from rows."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .records import OURS, Row, write_text
from .side_by_side import group_rows, make_table, other_versions

_BEGIN, _END = "<!-- rows:begin -->", "<!-- rows:end -->"


@dataclass(frozen=True)
class Finding:
    """What a reader must know before believing a row.

    Args:
        kind: `check failed`, `other version`, `substituted` or `skipped`.
        text: What was found.
    """

    kind: str
    text: str


def find_rows(folder: str | Path) -> list[Path]:
    """Paths of every `row.json` below `folder`, in order.

    Raises:
        ValueError: If there are none.
    """
    paths = sorted(Path(folder).rglob("row.json"))
    if not paths and (unfinished := len(list(Path(folder).rglob("identity.json")))):
        raise ValueError(
            f"{folder} holds no finished run, and {unfinished} that were interrupted: go on with --resume, by the "
            "command that began them"
        )
    if not paths:
        raise ValueError(
            f"{folder} holds no row.json; give the folder that `robust-clip evaluate --records` wrote. Rows of "
            "`robust-clip retrieve` have another form, and it prints them."
        )
    return paths


def read_rows(folder: str | Path) -> list[Row]:
    """Every `row.json` below `folder`, in the order of their paths.

    Raises:
        ValueError: If there are none.
    """
    return [Row.read(path) for path in find_rows(folder)]


def markdown_table(rows: Iterable[Row]) -> str:
    """One line per data set and model, one column per epsilon; accuracies in % with 95 % Wilson intervals.

    Numbers that failed a check, leave images out or of whose protocol something was replaced are marked † and told
    below it, and so are rows that another version or commit of this package measured than most.

    Raises:
        ValueError: If the rows come from several protocols or seeds, which one table must not mix, if one name stands
            for several revisions or settings of a model, or data sets, or if two rows want the same cell.
    """
    groups = group_rows(rows)
    if len(groups) != 1:
        raise ValueError(f"One table holds one protocol and seed, these rows have {len(groups)}: {sorted(groups)}.")
    ((measure, group),) = groups.items()
    table = make_table(measure, group)
    header = ["data set", "model", "images", *table.columns]
    lines = [[line.dataset, line.model, line.images, *map(str, line.cells)] for line in table.lines]
    ruled = [header, ["---"] * len(header), *([markdown_text(cell) for cell in line] for line in lines)]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in ruled)
    measured = f"{text}\n\n{markdown_text(measure)}. In %, with 95 % Wilson intervals."
    return "\n\n".join([measured, *_doubts(group), *version_notes(group)])


def rows_by_findings(rows: Iterable[Row], other_version: Mapping[int, str]) -> dict[tuple[Finding, ...], list[Row]]:
    """The rows that a reader must know something of, by what that is.

    Args:
        rows: With findings or without.
        other_version: What is said of a row that another version measured than most, by the row's `id()`.
    """
    groups: dict[tuple[Finding, ...], list[Row]] = {}
    for row in rows:
        found = [Finding("check failed", text) for text in row.checks]
        found += [Finding("other version", other_version[id(row)])] if id(row) in other_version else []
        found += [Finding("substituted", text) for text in row.substituted]
        if row.skipped:
            found.append(Finding("skipped", f"{row.skipped} images could not be read and count in no number"))
        if found:
            groups.setdefault(tuple(found), []).append(row)
    return groups


def _doubts(rows: Iterable[Row]) -> Iterator[str]:
    """A sentence of Markdown for each set of findings, with the rows that it holds for."""
    told = {tuple(finding.text for finding in found): some for found, some in rows_by_findings(rows, {}).items()}
    for texts, some in sorted(told.items(), key=lambda group: group[0]):
        yield markdown_text(f"† {_places(some)}: {'; '.join(texts)}.")


def _places(rows: Iterable[Row]) -> str:
    """Rows in a few words each, in an order that is not that of the rows."""
    told = (f"{row.model['id']} on {row.dataset['name']} {row.threat_model or 'clean'}" for row in rows)
    return ", ".join(sorted(told))


def version_notes(rows: Sequence[Row]) -> Iterator[str]:
    """A sentence of Markdown for each version of this package but the usual one, with the rows that it measured."""
    usual, others = other_versions(rows)
    for version, some in others.items():
        yield markdown_text(f"Measured by {OURS} {version}, not by {usual} as most: {_places(some)}.")


def folded(title: str, table: str) -> str:
    """A table in Markdown that opens when its title is clicked, where HTML in Markdown is shown.

    >>> print(folded("More", "| a |"))
    <details>
    <summary>More</summary>
    <BLANKLINE>
    | a |
    <BLANKLINE>
    </details>
    """
    return f"<details>\n<summary>{title}</summary>\n\n{table}\n\n</details>"


def markdown_text(text: object) -> str:
    r"""Text of any origin as one line of Markdown that shows it and does nothing else.

    Args:
        text: Turned into a string. Brackets are escaped only where they could become a link, so that intervals stay
            readable in the source.

    Example:
        >>> print(markdown_text("a|b <script>"), markdown_text("![x](y)"), markdown_text("nano_clip [1.0, 2.0]"))
        a\|b &lt;script> !\[x\](y) nano_clip [1.0, 2.0]
    """
    line = re.sub(r"([\\|`*~])", r"\\\1", " ".join(str(text).split()))
    if re.search(r"\][\[(:]", line):
        line = re.sub(r"([\[\]])", r"\\\1", line)
    return line.replace("&", "&amp;").replace("<", "&lt;")


def insert_table(path: str | Path, table: str) -> None:
    """Puts `table` between the markers of a Markdown file, in place of what is there.

    Raises:
        ValueError: If there is no such file, or it has no such markers.
    """
    text = Path(path).read_text() if Path(path).is_file() else ""
    if _BEGIN not in text or _END not in text:
        missing = "has no place for the table" if Path(path).is_file() else "is not there"
        raise ValueError(f"{path} {missing}: make a file with {_BEGIN} and {_END} on lines of their own.")
    before, rest = text.split(_BEGIN, 1)
    write_text(path, f"{before}{_BEGIN}\n{table}\n{_END}{rest.split(_END, 1)[1]}")
