"""Accuracy against epsilon, from rows."""

import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robust_clip.threat_model import format_size

from .records import Row
from .side_by_side import short_revision

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stands in a drawing for the colour of the text around it.
_INK = "#0a0b0c"
_SVG_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "robust-clip",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@dataclass(frozen=True)
class Style:
    """How a model is drawn: told apart by shape as well as by colour.

    Args:
        colour: Readable on white and on near black.
        marker: As matplotlib calls it.
        sign: The character that looks like the marker.
    """

    colour: str
    marker: str
    sign: str


STYLES = (
    Style("#3b82c4", "o", "\u25cf"),
    Style("#dd7430", "s", "\u25a0"),
    Style("#3c9d5d", "^", "\u25b2"),
    Style("#c44e73", "D", "\u25c6"),
    Style("#8e6cc9", "v", "\u25bc"),
    Style("#9a8a2b", "P", "\u271a"),
    Style("#3fa3b5", "X", "\u2716"),
    Style("#7f8790", "*", "\u2605"),
)


# Accuracy and interval by epsilon.
_Points = dict[float, tuple[float, tuple[float, float]]]


def plot_accuracy(rows: Iterable[Row]) -> "Figure":
    """Draw accuracy against epsilon: a line for each model, its 95 % Wilson intervals shaded.

    Clean accuracy stands at epsilon 0.

    Args:
        rows: Of one data set, and of one protocol at several epsilons of one norm; protocols without attacks add
            clean accuracies.

    Returns:
        The figure; `figure.savefig("accuracy.png")` writes it.

    Raises:
        ValueError: If there are no rows, or they are not comparable.
        ImportError: If matplotlib is not installed.
    """
    rows = list(rows)
    title = _subject(rows)
    lines = _points(rows)
    figure, axes = _draw(lines, sorted(lines))
    axes.set_title(title, parse_math=False)
    for text in axes.legend().get_texts():
        text.set_parse_math(False)
    return figure


def svg_accuracy(rows: Iterable[Row], models: Sequence[str]) -> str:
    """Draw what `plot_accuracy` draws as an `svg` element for an HTML page, small, without title and legend.

    Text and axes take the colour of the text around the element, text its font.

    Args:
        rows: As `plot_accuracy` takes them.
        models: Ids of models; each is drawn in the style at its position in `STYLES`, from the start again after the
            last one.

    Raises:
        ValueError: As `plot_accuracy` does, or if a model of the rows is not among `models`.
        ImportError: If matplotlib is not installed.
    """
    _require_matplotlib()
    import matplotlib as mpl

    rows = list(rows)
    _subject(rows)
    lines = _points(rows)
    if missing := sorted(lines.keys() - set(models)):
        raise ValueError(f"models {missing} have no style: give them among `models`, got {list(models)}")
    with mpl.rc_context(_SVG_SETTINGS):
        figure, _ = _draw(lines, models)
        figure.set_size_inches(4.4, 2.8)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")


def style_of(model: str, models: Sequence[str]) -> Style:
    """The style of a model among `models`."""
    return STYLES[models.index(model) % len(STYLES)]


def _draw(lines: dict[str, _Points], models: Sequence[str]) -> tuple["Figure", "Axes"]:
    """A line for each model, without title and legend."""
    _require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    ticks = sorted({epsilon for points in lines.values() for epsilon in points})
    axes.set_xticks(ticks, [format_size(epsilon) for epsilon in ticks])
    if any(right - left < 0.12 * ticks[-1] for left, right in zip(ticks, ticks[1:], strict=False)):
        axes.tick_params(axis="x", labelrotation=60)
    for model, points in lines.items():
        style = style_of(model, models)
        epsilons = sorted(points)
        accuracies = [100 * points[epsilon][0] for epsilon in epsilons]
        low, high = zip(*([100 * end for end in points[epsilon][1]] for epsilon in epsilons), strict=True)
        axes.plot(epsilons, accuracies, marker=style.marker, color=style.colour, label=model)
        axes.fill_between(epsilons, low, high, color=style.colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="epsilon", ylabel="accuracy (%)", ylim=(0, 100))
    return figure, axes


def _require_matplotlib() -> None:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("plots are drawn by matplotlib: pip install 'robust-clip[plots]'") from error


def _subject(rows: list[Row]) -> str:
    """What all rows have in common, as a title."""
    subjects = {f"{row.dataset['name']} {row.dataset['split']}" for row in rows}
    measures = {
        f"{row.protocol['name']} v{row.protocol['version']} {row.protocol['threat_model']['norm']}"
        for row in rows
        if row.protocol["threat_model"]
    }
    if len(subjects) != 1 or len(measures) > 1:
        raise ValueError(
            "a plot needs rows of one data set and one protocol: "
            f"got data sets {sorted(subjects)} and protocols {sorted(measures)}"
        )
    return ", ".join([*subjects, *measures])


def _points(rows: list[Row]) -> dict[str, _Points]:
    """The line of each model; models of one name are told apart by their revision."""
    revisions = defaultdict(set)
    for row in rows:
        revisions[row.model["id"]].add(row.model["revision"])
    points: dict[str, _Points] = defaultdict(dict)
    for row in rows:
        name, revision = row.model["id"], short_revision(row.model["revision"])
        line = points[name if len(revisions[name]) == 1 else f"{name} {revision}"]
        line[0.0] = row.clean_accuracy, row.clean_interval
        if row.protocol["threat_model"] and row.robust_accuracy is not None and row.robust_interval is not None:
            line[row.protocol["threat_model"]["epsilon"]] = row.robust_accuracy, row.robust_interval
    return points
