"""One line a model, through clean accuracy at 0 and robust accuracy at each epsilon."""

import sys

import pytest

from robust_clip.evaluation import get_protocol, plot_accuracy


def protocol(epsilon):
    return get_protocol("pgd20", epsilon=epsilon).as_dict()


def test_a_line_for_each_model(row, tmp_path):
    other = {"id": "other", "revision": "sha256:2"}
    rows = [
        row(protocol=protocol("4/255"), robust_accuracy=0.25),
        row(protocol=protocol("1/255"), robust_accuracy=0.5),
        row(protocol=protocol("1/255"), model=other, robust_accuracy=0.7),
        row(protocol=get_protocol("clean").as_dict(), model=other, robust_accuracy=None, robust_interval=None),
    ]
    figure = plot_accuracy(rows)
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["clip"].get_xdata() == pytest.approx([0, 1 / 255, 4 / 255])
    assert lines["clip"].get_ydata() == pytest.approx([75, 50, 25])
    assert lines["other"].get_ydata() == pytest.approx([75, 70])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1/255", "4/255"]
    assert axes.get_title() == "coloured test, pgd20 v1 linf"
    figure.savefig(tmp_path / "accuracy.png")


def test_models_of_one_name_are_told_apart(row):
    figure = plot_accuracy([row(), row(model={"id": "clip", "revision": "sha256:abcdef012"})])
    assert {line.get_label() for line in figure.axes[0].lines} == {"clip 01234567", "clip abcdef01"}


@pytest.mark.parametrize("second", [{"dataset": {"name": "mnist", "split": "test"}}, {"protocol": protocol("1/255")}])
def test_only_comparable_rows_share_a_plot(row, second):
    with pytest.raises(ValueError, match="rows of one data set and one protocol"):
        plot_accuracy([row(), row(**second)])


def test_no_rows_no_plot():
    with pytest.raises(ValueError, match="rows of one data set"):
        plot_accuracy([])


def test_without_matplotlib_it_says_what_to_install(row, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'robust-clip\[plots\]'"):
        plot_accuracy([row()])
