"""Means over data sets, then over seeds."""

import pytest

from robust_clip.evaluation import Row
from robust_clip.evaluation.method_summary import summary
from robust_clip.evaluation.records import OURS


def row(model, dataset, clean, robust, threat_model="linf 1/255", by="1"):
    fields = dict.fromkeys(Row.__dataclass_fields__)
    numbers = {"clean_accuracy": clean, "robust_accuracy": robust, "threat_model": threat_model}
    numbers |= {"clean_interval": (clean - 0.04, clean + 0.03), "robust_interval": (robust, robust + 0.08)}
    return Row(**fields | numbers | {"model": {"id": model}, "dataset": {"name": dataset}, "versions": {OURS: by}})


def test_summary_takes_means_over_other_sets_and_then_over_seeds():
    rows = [
        row("tecoa_seed_0_learning_rate_1", "own", 0.5, 0.4),
        row("tecoa_seed_0_learning_rate_1", "a", 0.2, 0.1),
        row("tecoa_seed_0_learning_rate_1", "b", 0.4, 0.3),
        row("tecoa_seed_1_learning_rate_1", "own", 0.7, 0.4),
        row("tecoa_seed_1_learning_rate_1", "a", 0.2, 0.1),
        row("tecoa_seed_1_learning_rate_1", "b", 0.4, 0.1),
    ]
    rows += [row("fare_seed_0_learning_rate_2", "own", 0.5, 0.4), row("fare_seed_0_learning_rate_2", "a", 0.5, 0.4)]
    lines = summary(rows, ["tecoa", "missing", "fare"], "own").splitlines()
    assert lines[0] == (
        "| method | seeds | own, clean | own, linf 1/255 | mean of 2 others, clean | mean of 2 others, linf 1/255 |"
    )
    assert lines[2] == (
        "| tecoa | 2 | 60.0 ± 14.1 [56.0, 63.0] | 40.0 ± 0.0 [40.0, 48.0] | 30.0 ± 0.0 [27.2, 32.1] "
        "| 15.0 ± 7.1 [15.0, 20.7] |"
    )
    assert lines[3:] == ["| fare | 1 | 50.0 [46.0, 53.0] | 40.0 [40.0, 48.0] | 1 of 2 sets | 1 of 2 sets |"]


def test_a_mean_of_fewer_seeds_says_so():
    rows = [row(f"tecoa_seed_{seed}_learning_rate_1", "own", 0.5, 0.4) for seed in range(3)]
    rows += [row(f"tecoa_seed_{seed}_learning_rate_1", "a", 0.2, 0.1) for seed in range(1)]
    line = summary(rows, ["tecoa"], "own").splitlines()[2]
    assert line.startswith("| tecoa | 3 | 50.0 ± 0.0 [46.0, 53.0] |")
    assert line.endswith("| 20.0 [16.0, 23.0] of 1 seed | 10.0 [10.0, 18.0] of 1 seed |")


def test_no_mean_mixes_what_different_commits_measured():
    rows = [row(f"tecoa_seed_{seed}_learning_rate_1", "own", 0.5, 0.4, by=f"1+g{seed // 2}") for seed in range(3)]
    rows += [row(f"fare_seed_{seed}_learning_rate_1", "own", 0.5, 0.4, by="1+g0") for seed in range(3)]
    lines = summary(rows, ["tecoa", "fare"], "own").splitlines()[2:]
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| tecoa, by 1+g0", "2"],
        ["| tecoa, by 1+g1", "1"],
        ["| fare", "3"],
    ]


def test_one_seed_at_two_learning_rates_is_refused():
    rows = [row(f"tecoa_seed_0_learning_rate_{rate}", "own", 0.5, 0.4) for rate in (1, 2)]
    with pytest.raises(ValueError, match="tecoa_seed_0 was measured at several learning rates"):
        summary(rows, ["tecoa"], "own")


def test_one_other_set_goes_by_its_name():
    rows = [row("original", name, 0.5, 0.25) for name in ("own", "cifar10")]
    assert summary(rows, ["original"], "own").splitlines()[0].endswith("| cifar10, clean | cifar10, linf 1/255 |")


def test_a_cell_has_one_row():
    with pytest.raises(ValueError, match="Two rows measure original on cifar10 against linf 1/255"):
        summary([row("original", "cifar10", 0.5, 0.25), row("original", "cifar10", 0.5, 0.5)], ["original"], "own")


def test_without_the_set_trained_on_it_has_no_columns():
    assert "own" not in summary([row("original", "cifar10", 0.5, 0.25)], ["original"], "own")


def test_attacks_on_texts_alone_have_a_column():
    rows = [row("mmcoa_seed_0_learning_rate_1", "own", 0.5, 0.25, None), row("original", "own", 0.4, 0.0, None)]
    lines = summary(rows, ["original", "mmcoa"], "own").splitlines()
    assert lines[0] == "| method | seeds | own, clean | own, attacked texts |"
    assert lines[2:] == [
        "| original | 1 | 40.0 [36.0, 43.0] | 0.0 [0.0, 8.0] |",
        "| mmcoa | 1 | 50.0 [46.0, 53.0] | 25.0 [25.0, 33.0] |",
    ]
