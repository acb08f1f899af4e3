"""Rows and samples come back from disk as they were."""

import pytest

from robust_clip.evaluation import Row, Sample, read_samples, wilson_interval
from robust_clip.evaluation.records import write_samples

SAMPLES = [
    Sample(0, 2, 2, 2),
    Sample(1, 0, 0, 1, "1-pgd-margin"),
    Sample(2, 1, 0),
    Sample(7),
]


def test_samples_come_back(tmp_path):
    write_samples(tmp_path / "samples.parquet", SAMPLES, {"seconds": "1.5"})
    assert read_samples(tmp_path / "samples.parquet") == (SAMPLES, {"seconds": "1.5"})
    assert [path.name for path in tmp_path.iterdir()] == ["samples.parquet"]


def test_what_counts_as_what():
    assert [sample.clean for sample in SAMPLES] == [True, True, False, False]
    assert [sample.robust for sample in SAMPLES] == [True, False, False, False]
    assert [sample.skipped for sample in SAMPLES] == [False, False, False, True]


def test_a_row_counts_the_images_that_were_read(row):
    identity = {name: getattr(row(), name) for name in ("model", "dataset", "protocol", "threat_model", "seed")}
    measured = Row.measured(identity, SAMPLES, seconds=2.0)
    assert (measured.n, measured.skipped, measured.seconds) == (3, 1, 2.0)
    assert (measured.clean_accuracy, measured.clean_interval) == (2 / 3, wilson_interval(2, 3))
    assert (measured.robust_accuracy, measured.robust_interval) == (1 / 3, wilson_interval(1, 3))
    assert measured.versions.keys() >= {"robust-clip", "torch", "transformers"}


def test_no_accuracy_over_no_images(row):
    identity = {name: getattr(row(), name) for name in ("model", "dataset", "protocol", "threat_model", "seed")}
    with pytest.raises(ValueError, match="none of the 1 images of coloured could be read"):
        Row.measured(identity, [Sample(0)], seconds=1.0)


@pytest.mark.parametrize("changes", [{}, {"robust_accuracy": None, "robust_interval": None, "threat_model": None}])
def test_a_row_comes_back(row, tmp_path, changes):
    row(**changes).write(tmp_path / "row.json")
    assert Row.read(tmp_path / "row.json") == row(**changes)


def test_rows_differ_by_all_but_time(row):
    assert row() == row(seconds=9.0, finished="another day")
    assert row() != row(seed=1)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"clean_interval": [0, 1], "robust_interval": null}'])
def test_something_else_is_not_a_row(tmp_path, content):
    (tmp_path / "row.json").write_text(content)
    with pytest.raises(ValueError, match="row.json is not a row of results"):
        Row.read(tmp_path / "row.json")
