"""Accuracy against epsilon, from rows."""

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from robust_clip.threat_model import format_size

from .records import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots are drawn by matplotlib: pip install 'robust-clip[plots]'") from error

    rows = list(rows)
    title = _subject(rows)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    lines = _points(rows)
    ticks = sorted({epsilon for points in lines.values() for epsilon in points})
    axes.set_xticks(ticks, [format_size(epsilon) for epsilon in ticks])
    for model, points in lines.items():
        epsilons = sorted(points)
        accuracies = [100 * points[epsilon][0] for epsilon in epsilons]
        low, high = zip(*([100 * end for end in points[epsilon][1]] for epsilon in epsilons), strict=True)
        (line,) = axes.plot(epsilons, accuracies, marker="o", label=model)
        axes.fill_between(epsilons, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(title=title, xlabel="epsilon", ylabel="accuracy (%)", ylim=(0, 100))
    axes.legend()
    return figure


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


def _points(rows: list[Row]) -> dict[str, dict[float, tuple[float, tuple[float, float]]]]:
    """Accuracy and interval at each epsilon for each model; models of one name are told apart by their revision."""
    revisions = defaultdict(set)
    for row in rows:
        revisions[row.model["id"]].add(row.model["revision"])
    points: dict[str, dict[float, tuple[float, tuple[float, float]]]] = defaultdict(dict)
    for row in rows:
        name, revision = row.model["id"], row.model["revision"].removeprefix("sha256:")[:8]
        line = points[name if len(revisions[name]) == 1 else f"{name} {revision}"]
        line[0.0] = row.clean_accuracy, row.clean_interval
        if row.robust_accuracy is not None and row.robust_interval is not None:
            line[row.protocol["threat_model"]["epsilon"]] = row.robust_accuracy, row.robust_interval
    return points
