"""Methods side by side: means over data sets, then over seeds, of rows whose models are named by method and seed."""

import statistics
from collections import defaultdict
from collections.abc import Sequence

from .records import Row

# Models of a study are called `tecoa_seed_0_learning_rate_0.0001`.
SEED = "_seed_"


def summary(rows: Sequence[Row], methods: Sequence[str], trained_on: str) -> str:
    """One line for each method: clean accuracy and that at each radius, on the set trained on and the mean of others.

    Args:
        rows: Of one protocol and seed of evaluation.
        methods: In the order of the lines; those without rows are left out.
        trained_on: Name of a data set.

    Returns:
        A table in Markdown, in %, with the standard deviation over several seeds of training.
    """
    threats = sorted({_threat(row) for row in rows if row.robust_accuracy is not None}, key=lambda it: (len(it), it))
    others = {row.dataset["name"] for row in rows} - {trained_on}
    sides = {trained_on: {trained_on}, f"mean of {len(others)} others": others}
    columns = [(title, what) for title, names in sides.items() if names for what in ("clean", *threats)]
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        accuracies = found[row.model["id"]]
        accuracies["clean"][row.dataset["name"]] = row.clean_accuracy
        if row.robust_accuracy is not None:
            accuracies[_threat(row)][row.dataset["name"]] = row.robust_accuracy
    lines = [["method", "seeds", *(f"{title}, {what}" for title, what in columns)]]
    lines.append(["---"] * len(lines[0]))
    for method in methods:
        models = [accuracies for model, accuracies in found.items() if model.split(SEED)[0] == method]
        if models:
            cells = [_spread([_mean(model[what], sides[title]) for model in models]) for title, what in columns]
            lines.append([method, str(len(models)), *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _threat(row: Row) -> str:
    """What the images are up against: nothing where texts alone are attacked."""
    return row.threat_model or "attacked texts"


def _mean(accuracies: dict[str, float], names: set[str]) -> float | None:
    """Of all the data sets, or nothing: a mean over some of them compares with no other."""
    return statistics.fmean(accuracies[name] for name in names) if names <= accuracies.keys() else None


def _spread(accuracies: Sequence[float | None]) -> str:
    found = [100 * accuracy for accuracy in accuracies if accuracy is not None]
    if not found:
        return ""
    return f"{statistics.fmean(found):.1f}" + (f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else "")
