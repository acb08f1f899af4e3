"""Tables in Markdown, rendered from rows."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from robust_clip.threat_model import format_size

from .records import Row, percent

_BEGIN, _END = "<!-- rows:begin -->", "<!-- rows:end -->"


def read_rows(folder: str | Path) -> list[Row]:
    """Every `row.json` below `folder`, in the order of their paths.

    Raises:
        ValueError: If there are none.
    """
    paths = sorted(Path(folder).rglob("row.json"))
    if not paths:
        raise ValueError(f"{folder} holds no row.json; give the folder that `robust-clip evaluate --records` wrote.")
    return [Row.read(path) for path in paths]


def markdown_table(rows: Iterable[Row]) -> str:
    """One line per data set and model, one column per epsilon; accuracies in % with 95 % Wilson intervals.

    Raises:
        ValueError: If the rows come from several protocols or seeds, which one table must not mix, if one name stands
            for several revisions of a model, or if two rows want the same cell.
    """
    rows = list(rows)
    measures = sorted({_measure(row) for row in rows})
    if len(measures) != 1:
        raise ValueError(f"One table holds one protocol and seed, these rows have {len(measures)}: {measures}.")
    _refuse_several_revisions(rows)
    epsilons = sorted({_epsilon(row) for row in rows})
    cells: dict[tuple[str, str], dict[float, Row]] = defaultdict(dict)
    for row in rows:
        dataset, model, epsilon = row.dataset["name"], row.model["id"], _epsilon(row)
        if epsilon in cells[dataset, model]:
            raise ValueError(f"Two rows measure {model} on {dataset} at {format_size(epsilon)}; leave one out.")
        cells[dataset, model][epsilon] = row
    header = ["data set", "model", "images", "clean", *(f"robust at {format_size(epsilon)}" for epsilon in epsilons)]
    lines = [_line(header), _line(["---"] * len(header))]
    for (dataset, model), found in sorted(cells.items()):
        first = next(iter(found.values()))
        clean = percent(first.clean_accuracy, first.clean_interval, missing="")
        robust = [
            percent(r.robust_accuracy, r.robust_interval, missing="") if (r := found.get(e)) else "" for e in epsilons
        ]
        lines.append(_line([dataset, model, str(first.n), clean, *robust]))
    return "\n".join([*lines, "", f"{measures[0]}. In %, with 95 % Wilson intervals."])


def insert_table(path: str | Path, table: str) -> None:
    """Puts `table` between the markers of a Markdown file, in place of what is there.

    Raises:
        ValueError: If the file has no such markers.
    """
    text = Path(path).read_text()
    if _BEGIN not in text or _END not in text:
        raise ValueError(f"{path} has no place for the table: put {_BEGIN} and {_END} on lines of their own.")
    before, rest = text.split(_BEGIN, 1)
    Path(path).write_text(f"{before}{_BEGIN}\n{table}\n{_END}{rest.split(_END, 1)[1]}")


def _refuse_several_revisions(rows: Iterable[Row]) -> None:
    revisions: dict[str, str] = {}
    for row in rows:
        model, revision = row.model["id"], row.model["revision"]
        if revisions.setdefault(model, revision) != revision:
            raise ValueError(
                f"The name {model} stands for two models in these rows, {revisions[model]} and {revision}; give the "
                "rows of one of them."
            )


def _measure(row: Row) -> str:
    protocol = row.protocol
    norm = protocol["threat_model"]["norm"] if protocol["threat_model"] else "no attack"
    name = f"{protocol['name']} v{protocol['version']}"
    how = f"{protocol['resolution']} grid, {protocol['templates']} templates, {protocol['precision']}"
    return f"Protocol {name}, {norm}, {how}, {row.dataset['split']} split, seed {row.seed}"


def _epsilon(row: Row) -> float:
    return float(row.protocol["threat_model"]["epsilon"]) if row.protocol["threat_model"] else 0.0


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
