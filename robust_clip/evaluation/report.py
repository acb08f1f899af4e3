"""A report on measured rows: one HTML page that needs nothing else, or the same as Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from .broken_by import BrokenTable, broken_table, read_kept_samples
from .examples import ImageExample, Picture, TextExample, names_of, picture, read_examples, word_changes
from .plots import style_of, svg_accuracy
from .records import OURS, Row, Sample, duration, write_text
from .side_by_side import (
    Table,
    call,
    epsilon_of,
    group_rows,
    make_table,
    other_versions,
    protocol_tables,
    short_revision,
)
from .store import BATTERY
from .tables import Finding, find_rows, markdown_text, rows_by_findings

_TEMPLATES = {".html": "report_template.html", ".md": "report_template.md"}


@dataclass(frozen=True)
class Record:
    """A row, and what was kept beside it.

    Args:
        folder: That holds them.
        row: The row.
        samples: What became of each image; `None` if that was not kept.
        examples: Adversarial images and texts to be looked at.
    """

    folder: Path
    row: Row
    samples: list[Sample] | None
    examples: list[ImageExample | TextExample]


@dataclass(frozen=True)
class Section:
    """What one protocol says with one seed, or several protocols side by side.

    Args:
        table: Accuracies.
        models: In the plots.
        plots: Accuracy against epsilon, by data set, as `svg` elements; none in Markdown.
        no_plots: Why there are none, where there should be some; else empty.
        broken: Which attack broke what; `None` where nothing was attacked.
    """

    table: Table
    models: list[str]
    plots: dict[str, str]
    no_plots: str
    broken: BrokenTable | None


def read_records(folders: Iterable[str | Path]) -> list[Record]:
    """Every row below some folders, with what was kept beside it.

    Raises:
        ValueError: If a folder holds no rows, or something that was kept cannot be read.
    """
    return [
        Record(path.parent, Row.read(path), read_kept_samples(path.parent), read_examples(path.parent))
        for folder in folders
        for path in find_rows(folder)
    ]


def write_report(records: Sequence[Record], path: str | Path) -> None:
    """Write a report.

    Args:
        records: Rows, of one protocol or several.
        path: Of the file; `.html` and `.md` tell the kind.

    Raises:
        ValueError: If the name of the file ends otherwise, if it cannot be written, which leaves what was there as it
            was, or as `render_report` does.
    """
    kind = report_kind(path)
    text = render_report(records, kind)
    try:
        write_text(path, text)
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error.strerror}): make room, or give another place") from error


def report_kind(path: str | Path) -> str:
    """The ending of a report's name: `.html` or `.md`.

    Raises:
        ValueError: If it ends otherwise.
    """
    kind = Path(path).suffix.lower()
    if kind not in _TEMPLATES:
        raise ValueError(f"a report is written to a file that ends in {' or '.join(_TEMPLATES)}, got {path}")
    return kind


def render_report(records: Sequence[Record], kind: str) -> str:
    """The report as text.

    Args:
        records: Rows, of one protocol or several.
        kind: `.html`: a page without scripts that loads nothing, its styles, plots and images being part of it.
            `.md`: the same in Markdown, without plots and images.

    Raises:
        ValueError: If rows contradict each other, see `group_rows`, `make_table` and `protocol_tables`, or samples or
            images that were kept do not fit their row.
    """
    html = kind == ".html"
    settings: dict[str, Any] = {"autoescape": True} if html else {"finalize": markdown_text}
    template = Path(__file__).with_name(_TEMPLATES[kind]).read_text(encoding="utf-8")
    page = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, **settings)
    page.globals |= {"where": _where, "share": _share, "style_of": style_of}
    page.globals |= {"names_of": names_of, "word_changes": word_changes}
    rows = [record.row for record in records]
    groups = sorted(group_rows(rows).items())
    return page.from_string(template).render(
        facts=_facts(records),
        findings=_grouped_findings(rows),
        sections=[
            *(Section(table, [], {}, "", None) for table in protocol_tables(rows)),
            *(_section(measure, group, records, html) for measure, group in groups),
        ],
        examples=[(record.row, *_examples(record, html)) for record in records if record.examples],
    )


def _section(measure: str, rows: Sequence[Row], records: Sequence[Record], html: bool) -> Section:
    table = make_table(measure, rows)
    models = sorted({row.model["id"] for row in rows})
    by_dataset = {line.dataset: [row for row in rows if row.dataset["name"] == line.dataset] for line in table.lines}
    drawn = {name: some for name, some in by_dataset.items() if len({epsilon_of(row) for row in some}) > 1}
    plots, no_plots = {}, ""
    try:
        plots = {name: svg_accuracy(some, models) for name, some in drawn.items() if html}
    except ImportError as error:
        no_plots = str(error)
    attacked = {id(row) for row in rows if row.robust_accuracy is not None}
    fates = [(record.row, record.samples) for record in records if id(record.row) in attacked]
    return Section(table, models, plots, no_plots, broken_table(fates) if fates else None)


def _grouped_findings(rows: Sequence[Row]) -> list[tuple[tuple[Finding, ...], list[Row]]]:
    """Findings, failed checks first, each set of them with the rows that it holds for."""
    usual, others = other_versions(rows)
    told = {id(row): f"{OURS} {version}, most rows {usual}" for version, some in others.items() for row in some}
    return sorted(rows_by_findings(rows, told).items(), key=lambda group: group[0][0].kind)


def _examples(record: Record, html: bool) -> tuple[list[tuple[ImageExample, Picture | None]], list[TextExample]]:
    images = [example for example in record.examples if isinstance(example, ImageExample)]
    texts = [example for example in record.examples if isinstance(example, TextExample)]
    return [(example, picture(record.folder, example) if html else None) for example in images], texts


def _facts(records: Sequence[Record]) -> dict[str, list[str]]:
    """What was measured by what, as lists of phrases by their heading."""
    rows = [record.row for record in records]
    thorough = sum((record.folder / BATTERY).exists() for record in records)
    models = {f"{row.model['id']} (revision {short_revision(row.model['revision'])})" for row in rows}
    sizes: dict[str, set[int]] = {}
    versions: dict[str, set[str]] = {}
    for row in rows:
        sizes.setdefault(f"{row.dataset['name']} {row.dataset['split']}", set()).add(row.n)
        for library, version in row.versions.items():
            versions.setdefault(library, set()).add(version)
    days = sorted({row.finished[:10] for row in rows})
    seconds = sum(row.seconds for row in rows)
    return {
        "models": sorted(models),
        "protocols": list(dict.fromkeys(_describe(row.protocol) for row in rows)),
        "data sets": [f"{name}: {_range(found)} images" for name, found in sorted(sizes.items())],
        "seeds": [", ".join(map(str, sorted({row.seed for row in rows})))],
        "measured": [
            f"{len(rows)} rows, finished {' to '.join(dict.fromkeys((days[0], days[-1])))}, in {duration(seconds)}"
        ],
        "checks": [
            f"the short form of every run that attacks; the whole battery too on {thorough} of {len(rows)} rows"
        ],
        "libraries": [f"{library} {', '.join(sorted(found))}" for library, found in versions.items()],
    }


def _describe(protocol: dict[str, Any]) -> str:
    """A protocol without its epsilon: its attacks with all their parameters, and its source."""
    texts = [protocol["text_attack"]] if protocol.get("text_attack") else []
    attacks = [
        *(f"{call(attack['attack'], attack['parameters'])} on {_climbed(attack)}" for attack in protocol["attacks"]),
        *(f"{call(attack['attack'], attack['parameters'])} on class prompts" for attack in texts),
    ]
    found = [f"{protocol['name']} v{protocol['version']}: {', then '.join(attacks) or 'no attack'}"]
    if defence := protocol.get("test_time_defence"):
        found.append(f"Judged through {call(defence['defence'], defence['parameters'])}")
    return f"{'. '.join(found)}. Source: {protocol['source']}"


def _climbed(attack: dict[str, Any]) -> str:
    """The loss, with what an attack sees of it."""
    draws = f", mean of {attack['eot_samples']} draws" if "eot_samples" in attack else ""
    return f"{attack['loss']}{draws}{' of ' + attack['sees'] if 'sees' in attack else ''}"


def _where(row: Row) -> str:
    """A row in a few words."""
    protocol = f"{row.protocol['name']} v{row.protocol['version']}"
    what = [f"{row.dataset['name']} {row.dataset['split']}", row.model["id"], protocol]
    return ", ".join([*what, *([row.threat_model] if row.threat_model else []), f"seed {row.seed}"])


def _share(share: float | None) -> str:
    """A share in %, and a dash for one that is not known."""
    return "\u2013" if share is None else f"{100 * share:.1f}"


def _range(numbers: set[int]) -> str:
    return " to ".join(dict.fromkeys(str(end) for end in (min(numbers), max(numbers))))
