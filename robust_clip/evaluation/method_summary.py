"""Methods side by side: means over data sets, then over seeds, of rows whose models are named by method and seed."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from .records import OURS, Row

# Models of a study are called `tecoa_seed_0_learning_rate_0.0001`.
SEED = "_seed_"
RATE = "_learning_rate_"

Measured = tuple[float, float, float]  # an accuracy, and the ends of its interval


def summary(rows: Sequence[Row], methods: Sequence[str], trained_on: str) -> str:
    """One line for each method: clean accuracy and that at each radius, on the set trained on and the mean of others.

    Args:
        rows: Of one protocol and seed of evaluation.
        methods: In the order of the lines; those without rows are left out. One that several versions or commits of
            this package measured has a line for each, since no mean mixes them.
        trained_on: Name of a data set.

    Returns:
        A table in Markdown, in %, each with the standard deviation over several seeds of training and the interval
        that the number of images leaves; and the number of seeds, where not all of the method's were measured.

    Raises:
        ValueError: If a method has one seed at two learning rates, or two rows want the same cell.
    """
    threats = sorted({_threat(row) for row in rows if row.robust_accuracy is not None}, key=lambda it: (len(it), it))
    others = {row.dataset["name"] for row in rows} - {trained_on}
    title = next(iter(others)) if len(others) == 1 else f"mean of {len(others)} others"
    own = {trained_on} & {row.dataset["name"] for row in rows}
    sides = {trained_on: own, title: others}
    columns = [(title, what) for title, names in sides.items() if names for what in ("clean", *threats)]
    found: dict[tuple[str, str], dict[str, dict[str, Measured]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        accuracies = found[row.model["id"], row.versions.get(OURS, "unknown")]
        if row.dataset["name"] in accuracies[_threat(row)]:
            where = f"{row.model['id']} on {row.dataset['name']}"
            raise ValueError(f"Two rows measure {where} against {_threat(row)}; leave one out.")
        accuracies["clean"][row.dataset["name"]] = (row.clean_accuracy, *row.clean_interval)
        if row.robust_accuracy is not None and row.robust_interval is not None:
            accuracies[_threat(row)][row.dataset["name"]] = (row.robust_accuracy, *row.robust_interval)
    lines = [["method", "seeds", *(f"{title}, {what}" for title, what in columns)]]
    lines.append(["---"] * len(lines[0]))
    _require_one_rate({model for model, _ in found})
    for method in methods:
        versions = sorted({version for model, version in found if model.split(SEED)[0] == method})
        for by in versions:
            models = [
                found[model, version] for model, version in found if (model.split(SEED)[0], version) == (method, by)
            ]
            cells = [_cell([model[what] for model in models], sides[title]) for title, what in columns]
            lines.append([method if len(versions) == 1 else f"{method}, by {by}", str(len(models)), *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def mean_with_interval(measured: Sequence[Measured]) -> Measured:
    """Mean of independent accuracies, and its 95 % interval recovered from theirs.

    The variances on either side are read off the single intervals (MOVER; Zou and Donner 2008, "Construction of
    confidence limits about effect measures", Statistics in Medicine 27), so that of one accuracy its own is left.

    >>> [round(share, 3) for share in mean_with_interval([(0.5, 0.4, 0.6), (0.0, 0.0, 0.1)])]
    [0.25, 0.2, 0.321]
    """
    mean = statistics.fmean(accuracy for accuracy, _, _ in measured)
    below = math.hypot(*(accuracy - low for accuracy, low, _ in measured)) / len(measured)
    above = math.hypot(*(high - accuracy for accuracy, _, high in measured)) / len(measured)
    return mean, mean - below, mean + above


def _require_one_rate(models: Iterable[str]) -> None:
    runs = [model.rpartition(RATE)[0] for model in models if RATE in model]
    if twice := next((run for run in runs if runs.count(run) > 1), None):
        raise ValueError(f"{twice} was measured at several learning rates; leave the rows of one of them.")


def _threat(row: Row) -> str:
    """What the images are up against: nothing where texts alone are attacked."""
    return row.threat_model or "attacked texts"


def _cell(models: Sequence[dict[str, Measured]], names: set[str]) -> str:
    """Mean over the data sets and the models, or how many of the sets were measured."""
    if text := _spread([_mean(accuracies, names) for accuracies in models]):
        return text
    measured = max(len(names & accuracies.keys()) for accuracies in models)
    return f"{measured} of {len(names)} sets" if measured else ""


def _mean(accuracies: dict[str, Measured], names: set[str]) -> Measured | None:
    """Of all the data sets, or nothing: a mean over some of them compares with no other."""
    return mean_with_interval([accuracies[name] for name in names]) if names <= accuracies.keys() else None


def _spread(means: Sequence[Measured | None]) -> str:
    """Over seeds. All see the same images, so that more of them leave the interval as it is."""
    found = [[100 * share for share in mean] for mean in means if mean is not None]
    if not found:
        return ""
    accuracy, low, high = map(statistics.fmean, zip(*found, strict=True))
    deviation = f" ± {statistics.stdev(mean[0] for mean in found):.1f}" if len(found) > 1 else ""
    fewer = f" of {len(found)} seed{'s' * (len(found) > 1)}" if len(found) < len(means) else ""
    return f"{accuracy:.1f}{deviation} [{low:.1f}, {high:.1f}]{fewer}"
