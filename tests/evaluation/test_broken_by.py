"""Shares of images by what broke them."""

import math

import pytest

from robust_clip.evaluation import Sample, wilson_interval
from robust_clip.evaluation.broken_by import broken_table, read_kept_samples
from robust_clip.evaluation.records import write_samples

SAMPLES = [
    Sample(0, 1, 1, 2, "1-apgd-cross_entropy"),
    Sample(1, 1, 1, 2, "1-apgd-cross_entropy"),
    Sample(2, 1, 1, 2, "10-square-margin"),
    Sample(3, 1, 0),
    Sample(4, 1, 1, 1),
    Sample(5),
]


@pytest.fixture
def attacked(row):
    """A row of ten attacks that fits samples."""

    def make(samples, **changes):
        seen = [sample for sample in samples if not sample.skipped]
        clean, robust = (sum(getattr(sample, name) for sample in seen) for name in ("clean", "robust"))
        numbers = {
            "n": len(seen),
            "clean_accuracy": clean / len(seen),
            "clean_interval": wilson_interval(clean, len(seen)),
            "robust_accuracy": robust / len(seen),
            "robust_interval": wilson_interval(robust, len(seen)),
            "attacks": [
                "1-apgd-cross_entropy",
                *(f"{place}-pgd-margin" for place in range(2, 10)),
                "10-square-margin",
            ],
        }
        return row(**numbers | changes)

    return make


def test_shares_are_of_all_images_measured_and_in_the_order_of_the_attacks(attacked):
    table = broken_table([(attacked(SAMPLES), SAMPLES)])
    names = ["1-apgd-cross_entropy", *(f"{place}-pgd-margin" for place in range(2, 10)), "10-square-margin"]
    assert table.columns == ("wrong clean", *names, "robust")
    assert table.lines[0].shares == (0.2, 0.4, *[0] * 8, 0.2, 0.2)


def test_what_is_broken_is_what_is_not_robust(attacked):
    row = attacked(SAMPLES)
    table = broken_table([(row, SAMPLES)])
    shares = dict(zip(table.columns, table.lines[0].shares, strict=True))
    assert math.isclose(shares.pop("robust"), row.robust_accuracy)
    assert math.isclose(sum(shares.values()), 1 - row.robust_accuracy)
    assert math.isclose(sum(shares.values()) - shares["wrong clean"], row.clean_accuracy - row.robust_accuracy)


def test_rows_without_samples_stay_in_the_table(attacked):
    other = attacked(SAMPLES, model={"id": "other", "revision": "2"})
    table = broken_table([(other, None), (attacked(SAMPLES), SAMPLES)])
    assert [line.shares is None for line in table.lines] == [False, True]
    assert table.kept
    assert not broken_table([(other, None)]).kept


def test_an_attack_that_was_not_run_has_no_share(attacked):
    samples = [Sample(0, 1, 1, 0, "2-square-margin"), Sample(1, 1, 1, 1)]
    fewer = attacked(
        samples,
        substituted=["8 attacks left out"],
        attacks=["1-apgd-cross_entropy", "2-square-margin"],
        dataset={"name": "pcam", "split": "test"},
    )
    table = broken_table([(attacked(SAMPLES), SAMPLES), (fewer, samples)])
    shares = dict(zip(table.columns, table.lines[1].shares, strict=True))
    assert {name: share for name, share in shares.items() if share is not None} == {
        "wrong clean": 0,
        "1-apgd-cross_entropy": 0,
        "2-square-margin": 0.5,
        "robust": 0.5,
    }
    whole = dict(zip(table.columns, table.lines[0].shares, strict=True))
    assert whole["2-square-margin"] is None
    assert whole["2-pgd-margin"] == 0


@pytest.mark.parametrize(
    "others",
    [SAMPLES[1:], [*SAMPLES[:4], Sample(4, 1, 1, 0, "1-x")], [Sample(0, 1, 0), *SAMPLES[1:]]],
    ids=["fewer", "fewer robust", "fewer right clean"],
)
def test_samples_of_another_row_are_refused(attacked, others):
    with pytest.raises(ValueError, match="the samples kept for clip on coloured are not those of the row"):
        broken_table([(attacked(SAMPLES), others)])


def test_samples_beside_a_row_are_read(tmp_path):
    assert read_kept_samples(tmp_path) is None
    write_samples(tmp_path / "samples.parquet", SAMPLES)
    assert read_kept_samples(tmp_path) == SAMPLES
    (tmp_path / "samples.parquet").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"samples\.parquet is not a table of samples"):
        read_kept_samples(tmp_path)
