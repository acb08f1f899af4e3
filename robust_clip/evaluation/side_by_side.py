"""Accuracies of models side by side: which rows may be compared, and what the comparison says."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

from robust_clip.models import CONTEXT_TEMPLATE
from robust_clip.threat_model import format_size

from .presets import PRESETS
from .protocol import listed_grid
from .records import OURS, Row, percent
from .run_folder import differences

_Places = Mapping[tuple[str, str], Mapping[float, Row]]


@dataclass(frozen=True)
class Cell:
    """One number of a table, as text.

    Args:
        value: In %, with one digit; empty where nothing was measured.
        note: What stands beside it, such as its interval; may be empty.
        best: Whether it lies above all others of its data set and column, and no interval overlaps its own.
        doubtful: Whether a check of its row failed, images were left out, or part of the protocol was replaced.
    """

    value: str
    note: str = ""
    best: bool = False
    doubtful: bool = False

    def __str__(self) -> str:
        """Number and note, and a mark if there is doubt: `50.0 [25.0, 75.0] †`."""
        return " ".join(part for part in (self.value, self.note, "†" if self.doubtful else "") if part)


@dataclass(frozen=True)
class Line:
    """The numbers of a model on a data set.

    Args:
        dataset: Name of the data set.
        model: Id of the model.
        images: How many were measured.
        cells: One for each column of the table.
    """

    dataset: str
    model: str
    images: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """What one protocol says with one seed.

    Args:
        measure: Which protocol, and how it was run.
        columns: Names of the columns with accuracies: clean, then robust at each epsilon.
        lines: By data set, then model.
        means: For each model the unweighted mean over data sets, with no number in columns where models were measured
            on different data sets; none for a single data set.
    """

    measure: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    means: tuple[Line, ...]

    @property
    def groups(self) -> list[tuple[str, list[Line]]]:
        """Lines and means by what they are about."""
        return [(name, list(lines)) for name, lines in groupby(self.lines + self.means, lambda line: line.dataset)]


def group_rows(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by what they measure and how, which is what a table may compare.

    Raises:
        ValueError: If one name stands for several revisions of a model, or one of several settings.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    models: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = row.model["id"]
        models[name] = row.model | models.get(name, {})  # older rows lack the settings, and tell no difference in them
        if unlike := "; ".join(differences(models[name], row.model)):
            raise ValueError(f"The name {name} stands for two models in these rows, whose {unlike}; leave one out.")
        groups[_measure(row)].append(row)
    return dict(groups)


def _require_one_source(sources: dict[str, tuple[str, str]], dataset: str, row: Row) -> None:
    """Refuse a data set that was another, or had other class prompts, in an earlier row."""
    source = str(row.dataset["revision"]), str(row.dataset["prompts"])
    if sources.setdefault(dataset, source) != source:
        raise ValueError(
            f"The name {dataset} stands for two data sets in these rows, of revisions and class prompts "
            f"{sources[dataset]} and {source}; give the rows of one of them."
        )


def make_table(measure: str, rows: Sequence[Row]) -> Table:
    """The table of one group of `group_rows`.

    Raises:
        ValueError: If two rows want the same cell, or one name stands for several data sets or class prompts.
    """
    places: dict[tuple[str, str], dict[float, Row]] = defaultdict(dict)
    sources: dict[str, tuple[str, str]] = {}
    for row in rows:
        dataset, model, epsilon = row.dataset["name"], row.model["id"], epsilon_of(row)
        if epsilon in places[dataset, model]:
            raise ValueError(f"Two rows measure {model} on {dataset} at {format_size(epsilon)}; leave one out.")
        places[dataset, model][epsilon] = row
        _require_one_source(sources, dataset, row)
    found = {place: places[place] for place in sorted(places)}
    epsilons = sorted({epsilon_of(row) for row in rows if row.robust_accuracy is not None})
    columns = [_column(epsilon, rows) for epsilon in epsilons]
    lines = tuple(_line(found, dataset, model, epsilons) for dataset, model in found)
    return Table(measure, ("clean", *columns), lines, _means(found, epsilons))


def protocol_tables(rows: Iterable[Row]) -> list[Table]:
    """Robust accuracy by several protocols that measure alike but for their attacks, each protocol a column.

    They stand in the order of `PRESETS`. Where the attacks of a column are stronger than those of an earlier one, as
    from PGD to AutoAttack, it should not lie above that by more than its interval.

    Raises:
        ValueError: If one name stands for several data sets or class prompts.
    """
    alike: dict[str, dict[tuple[str, str, int], dict[str, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row.threat_model and not row.protocol.get("text_attack"):
            about = f"{row.dataset['name']}, {row.threat_model}", row.model["id"], row.n
            measured = alike[_how(row, by_list=False)][about]
            measured.setdefault(f"{row.protocol['name']} v{row.protocol['version']}", row)
    order: dict[str, int] = {}
    for place, protocol in enumerate(chain.from_iterable(PRESETS.values())):
        order.setdefault(f"{protocol.name} v{protocol.version}", place)
    tables = []
    for how, lines in sorted(alike.items()):
        kept = {about: found for about, found in lines.items() if len(found) > 1}
        names = {name for found in kept.values() for name in found}
        if not kept:
            continue
        sources: dict[str, tuple[str, str]] = {}
        for row in chain.from_iterable(found.values() for found in kept.values()):
            _require_one_source(sources, row.dataset["name"], row)
        columns = sorted(names, key=lambda name: (order.get(name, len(order)), name))
        tables.append(Table(f"Protocols side by side, {how}", ("clean", *columns), _protocol_lines(kept, columns), ()))
    return tables


def _protocol_lines(
    kept: Mapping[tuple[str, str, int], Mapping[str, Row]], columns: Sequence[str]
) -> tuple[Line, ...]:
    lines = []
    for (dataset, model, n), found in sorted(kept.items()):
        clean = _cell(next(iter(found.values())), (), clean=True, with_n=False)
        robust = [_cell(found.get(name), (), clean=False, with_n=False) for name in columns]
        lines.append(Line(dataset, model, str(n), (clean, *robust)))
    return tuple(lines)


def other_versions(rows: Iterable[Row]) -> tuple[str, dict[str, list[Row]]]:
    """The version of this package that measured most of the rows, and the rows of each other one.

    They stand side by side, since most changes change no number; but a reader has to know.
    """
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.versions.get(OURS, "unknown")].append(row)
    usual = max(sorted(found), key=lambda version: len(found[version]), default="unknown")
    return usual, {version: found[version] for version in sorted(found) if version != usual}


def epsilon_of(row: Row) -> float:
    """Radius of the attacks on images, 0 where there are none."""
    return float(row.protocol["threat_model"]["epsilon"]) if row.protocol["threat_model"] else 0.0


def short_revision(revision: str) -> str:
    """Enough of a revision to tell models apart by eye.

    >>> short_revision("sha256:0123456789abcdef"), short_revision("memory-sha256:0123456789abcdef")
    ('01234567', 'memory 01234567')
    """
    kind, _, digest = revision.rpartition("sha256:")
    return f"{'memory ' if kind else ''}{digest[:8]}"


def call(name: str, parameters: Mapping[str, object]) -> str:
    """An attack or a defence with what it was given, as Python would write it.

    >>> call("PGD", {"steps": 20, "step_size": None})
    'PGD(steps=20)'
    """
    settings = [f"{key}={value}" for key, value in parameters.items() if value is not None]
    # Such as the alphabet of an attack on characters.
    return f"{name}({', '.join(text if len(text) <= 60 else text[:57] + '...' for text in settings)})"


def _line(places: _Places, dataset: str, model: str, epsilons: Sequence[float]) -> Line:
    found = places[dataset, model]
    sizes = sorted({row.n for row in found.values()})
    others = [other for place, other in places.items() if place[0] == dataset and place[1] != model]
    cells = [_cell(_largest(found), [_largest(other) for other in others], clean=True, with_n=len(sizes) > 1)]
    for epsilon in epsilons:
        rivals = [other[epsilon] for other in others if epsilon in other]
        cells.append(_cell(found.get(epsilon), rivals, clean=False, with_n=len(sizes) > 1))
    return Line(dataset, model, ", ".join(map(str, sizes)), tuple(cells))


def _cell(row: Row | None, rivals: Sequence[Row], *, clean: bool, with_n: bool) -> Cell:
    """The number of `row`, marked if it is above those of `rivals` beyond doubt."""
    accuracy, interval = _accuracy(row, clean)
    if row is None or accuracy is None or interval is None:
        return Cell("")
    value, note = percent(accuracy, interval, missing="").split(" ", 1)
    # Checks and substitutions are about attacks, unless there are none.
    about_this = not clean or row.robust_accuracy is None
    highs = [other[1] for rival in rivals if (other := _accuracy(rival, clean)[1]) is not None]
    best = bool(highs) and interval[0] > max(highs) and not (about_this and row.checks)
    doubtful = bool(row.skipped) or about_this and bool(row.checks or row.substituted)
    return Cell(value, f"{note} n={row.n}" if with_n else note, best, doubtful)


def _means(places: _Places, epsilons: Sequence[float]) -> tuple[Line, ...]:
    datasets, models = (sorted({place[side] for place in places}) for side in (0, 1))
    if len(datasets) < 2:
        return ()
    cells: dict[str, list[Cell]] = {model: [] for model in models}
    for epsilon in (None, *epsilons):
        numbers: dict[str, dict[str, float]] = {model: {} for model in models}
        for (dataset, model), found in places.items():
            row = _largest(found) if epsilon is None else found.get(epsilon)
            if (accuracy := _accuracy(row, clean=epsilon is None)[0]) is not None:
                numbers[model][dataset] = accuracy
        sets = numbers[models[0]].keys()
        comparable = len(sets) > 1 and all(numbers[model].keys() == sets for model in models)
        note = "" if len(sets) == len(datasets) else f"({len(sets)} sets)"
        for model in models:
            cell = Cell(f"{100 * sum(numbers[model].values()) / len(sets):.1f}", note) if comparable else Cell("")
            cells[model].append(cell)
    return tuple(Line("unweighted mean", model, f"{len(datasets)} sets", tuple(cells[model])) for model in models)


def _accuracy(row: Row | None, clean: bool) -> tuple[float | None, tuple[float, float] | None]:
    if row is None:
        return None, None
    return (row.clean_accuracy, row.clean_interval) if clean else (row.robust_accuracy, row.robust_interval)


def _largest(found: Mapping[float, Row]) -> Row:
    """Of the rows of a model on a data set the one with the most images, which knows clean accuracy best."""
    return max(found.values(), key=lambda row: row.n)


def _column(epsilon: float, rows: Sequence[Row]) -> str:
    return f"robust at {format_size(epsilon)}" if any(row.protocol["threat_model"] for row in rows) else "robust"


def _measure(row: Row) -> str:
    return f"Protocol {row.protocol['name']} v{row.protocol['version']}, {_how(row)}"


def _how(row: Row, *, by_list: bool = True) -> str:
    """All of a measurement but the attacks on images: what two protocols must share to be compared.

    Args:
        row: Of one data set.
        by_list: Whether a grid by a list of data sets is called that, or by what it is on this one.
    """
    protocol, attacks = row.protocol, row.protocol["attacks"]
    attacked = [protocol["threat_model"]["norm"]] if protocol["threat_model"] else []
    if text := protocol.get("text_attack"):
        language_model = text["parameters"].get("masked_lm")
        attacked.append(f"texts by {text['attack']}" + (f" with {language_model}" if language_model else ""))
    learned = list(row.dataset["templates"]) == [CONTEXT_TEMPLATE]
    words = "learned context" if learned else f"{protocol['templates']} templates"
    grid = protocol["resolution"]
    if grid == "listed" and not by_list:
        grid = listed_grid(row.dataset["name"], protocol.get("native_datasets", ()))
    how = [f"{grid} grid", words, protocol["precision"]]
    how += [f"temperature {protocol['temperature']:g}"] if protocol.get("temperature") is not None else []
    how += ["compiled"] if protocol.get("compiled") else []
    how += [f"objective {protocol['objective']}"] if protocol.get("objective") else []
    if defence := protocol.get("test_time_defence"):
        how.append(f"judged through {call(defence['defence'], defence['parameters'])}")
    how += [f"mean of {draws} draws" for draws in sorted({attack.get("eot_samples", 1) for attack in attacks} - {1})]
    choice = protocol["sample_choice"]
    how += [f"{choice} samples"] if protocol["samples"] and choice != "random" else []
    return ", ".join([*(attacked or ["no attack"]), *how, f"{row.dataset['split']} split", f"seed {row.seed}"])
