"""One line a model, through clean accuracy at 0 and robust accuracy at each epsilon."""

import re
import sys
import xml.etree.ElementTree as ET

import pytest

from robust_clip.evaluation import get_protocol, plot_accuracy
from robust_clip.evaluation.plots import STYLES, style_of, svg_accuracy


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
    with pytest.raises(ImportError, match=r"pip install 'robust-clip\[plots\]'"):
        svg_accuracy([row()], ["clip"])


def test_an_attack_on_texts_has_no_place_on_the_axis(row):
    text = {"attack": "LEAF", "parameters": {}}
    rows = [row(), row(protocol=row().protocol | {"attacks": [], "threat_model": None, "text_attack": text})]
    (line,) = plot_accuracy(rows).axes[0].lines
    assert line.get_xdata() == pytest.approx([0, 4 / 255])


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "$x", "$\\frac$", "a & b"])
def test_any_name_can_be_drawn(row, name, tmp_path):
    named = row(model={"id": name, "revision": "1"}, dataset=row().dataset | {"name": name})
    figure = plot_accuracy([named])
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == name
    figure.savefig(tmp_path / "accuracy.png")
    assert "<script>" not in svg_accuracy([named], [name])


def test_an_svg_is_an_element_that_takes_the_colour_of_the_text(row):
    text = svg_accuracy([row(), row(model={"id": "b", "revision": "b"})], ["b", "clip"])
    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "currentColor" in text
    assert ">4/255<" in text
    links = re.findall(r'(?:href|src)="([^"]*)"', text)
    assert all(link.startswith("#") for link in links)
    assert [style.colour in text for style in STYLES[:3]] == [True, True, False]


def test_an_svg_is_the_same_every_time(row):
    assert svg_accuracy([row()], ["clip"]) == svg_accuracy([row()], ["clip"])


def test_styles_begin_again(row):
    models = [str(number) for number in range(len(STYLES) + 1)]
    assert style_of("1", models) == STYLES[1]
    assert style_of(models[-1], models) == STYLES[0]
    with pytest.raises(ValueError, match=r"models \['clip'\] have no style"):
        svg_accuracy([row()], models)


def test_crowded_ticks_are_turned(row):
    rows = [row(protocol=protocol(size)) for size in ("0.25/255", "8/255")]
    assert {label.get_rotation() for label in plot_accuracy(rows).axes[0].get_xticklabels()} == {60}
    assert {label.get_rotation() for label in plot_accuracy(rows[1:]).axes[0].get_xticklabels()} == {0}
