"""Intervals agree with SciPy's, the metric with counting by hand."""

import pytest
from scipy.stats import binomtest

from robust_clip.evaluation import RobustAccuracy, wilson_interval


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (3, 10), (999, 1000), (0, 50), (50, 50)])
def test_wilson_interval_is_scipys(successes, n):
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, n, z=1.959963984540054) == pytest.approx(
        (expected.low, expected.high), abs=1e-12
    )


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match=f"got {successes} of {n}"):
        wilson_interval(successes, n)


def test_robust_means_right_on_both_images(tmp_path):
    metric = RobustAccuracy(cache_dir=str(tmp_path))
    metric.add_batch(predictions=[0, 1, 2], references=[0, 1, 0], adversarial_predictions=[0, 0, 0])
    metric.add_batch(predictions=[1], references=[1], adversarial_predictions=[1])
    assert metric.compute() == {
        "clean_accuracy": 0.75,
        "clean_interval": wilson_interval(3, 4),
        "robust_accuracy": 0.5,
        "robust_interval": wilson_interval(2, 4),
    }
