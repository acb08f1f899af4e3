"""Accuracies with their uncertainty, as functions of counts and as a metric of the `evaluate` library."""

import math
from typing import Any

import datasets
import evaluate
import numpy as np


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a proportion; unlike the normal one it stays in [0, 1] and is sound near both ends.

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927).

    Args:
        successes: From 0 to `n`.
        n: Trials, at least 1.
        z: Quantile of the normal distribution; 1.96 gives 95 %.

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        ValueError: If the counts are impossible.

    Example:
        >>> [round(end, 4) for end in wilson_interval(8, 10)]
        [0.4902, 0.9433]
        >>> [round(end, 4) for end in wilson_interval(0, 100)]
        [0.0, 0.037]
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"an interval needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # The ends at 0 and n successes are exact, where rounding would leave a 1e-17.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


class RobustAccuracy(evaluate.Metric):  # type: ignore[misc]
    """Clean and robust accuracy, with 95 % Wilson intervals; works offline.

    A sample counts as robust if it is classified rightly on the clean **and** on the adversarial image.

    Example:
        >>> metric = RobustAccuracy(keep_in_memory=True)
        >>> scores = metric.compute(predictions=[0, 1, 1], references=[0, 1, 0], adversarial_predictions=[0, 0, 0])
        >>> round(scores["clean_accuracy"], 4), round(scores["robust_accuracy"], 4)
        (0.6667, 0.3333)
    """

    def _info(self) -> evaluate.MetricInfo:
        labels = datasets.Value("int64")
        columns = {"predictions": labels, "references": labels, "adversarial_predictions": labels}
        return evaluate.MetricInfo(
            description="Share of samples classified rightly as they are, and also when attacked.",
            citation="",
            inputs_description=(
                "predictions: classes predicted on clean images; references: true classes; "
                "adversarial_predictions: classes predicted on the adversarial images of the same samples"
            ),
            features=datasets.Features(columns),
        )

    def _compute(
        self, predictions: list[int], references: list[int], adversarial_predictions: list[int]
    ) -> dict[str, Any]:
        clean = np.equal(predictions, references)
        robust = clean & np.equal(adversarial_predictions, references)
        n, n_clean, n_robust = len(clean), int(clean.sum()), int(robust.sum())
        return {
            "clean_accuracy": n_clean / n,
            "clean_interval": wilson_interval(n_clean, n),
            "robust_accuracy": n_robust / n,
            "robust_interval": wilson_interval(n_robust, n),
        }
