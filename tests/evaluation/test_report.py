"""Reports: the numbers are those of the rows, both kinds agree, and a page neither loads nor runs anything."""

import errno
import json
import re
import sys
from dataclasses import asdict
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from robust_clip.evaluation import Sample, get_protocol, wilson_interval
from robust_clip.evaluation.examples import ImageExample, TextExample
from robust_clip.evaluation.records import write_samples
from robust_clip.evaluation.report import read_records, render_report, write_report

ATTACK = "1-pgd-cross_entropy"
EVIL = '<script>alert("x")</script>'


class Page(HTMLParser):
    """What a page is made of: tags with their attributes, and the text of each table's cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self.text = [], [], ""
        self.feed(text)
        self.text = " ".join(self.text.split())
        self.tables = [[[" ".join(cell.split()) for cell in line] for line in table] for table in self.tables]

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, data):
        self.text += data
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data


@pytest.fixture
def keep(row, tmp_path):
    """Write a row from counts of ten images, with its samples: `keep("clip", "mnist", "4/255", clean=8, robust=2)`."""

    def write(model, dataset, epsilon, /, *, clean, robust, samples=True, **changes):
        protocol = get_protocol("pgd20", epsilon=epsilon).as_dict()
        numbers = {"clean_accuracy": clean / 10, "clean_interval": wilson_interval(clean, 10)}
        numbers |= {"robust_accuracy": robust / 10, "robust_interval": wilson_interval(robust, 10)}
        settings = {"protocol": protocol, "threat_model": f"linf {epsilon}", "n": 10}
        settings["model"] = {"id": model, "revision": "sha256:0123456789"}
        settings["dataset"] = row().dataset | {"name": dataset}
        folder = tmp_path / "rows" / f"{len(list(tmp_path.rglob('row.json')))}"
        folder.mkdir(parents=True)
        row(**numbers | settings | changes).write(folder / "row.json")
        if samples:
            fates = ["robust"] * robust + [ATTACK] * (clean - robust) + ["wrong"] * (10 - clean)
            kept = [
                Sample(place, 1, int(fate != "wrong"), broken_by=ATTACK if fate == ATTACK else None)
                for place, fate in enumerate(fates)
            ]
            write_samples(folder / "samples.parquet", kept)
        return folder

    return write


@pytest.fixture
def rows(keep, tmp_path):
    """Two models on two data sets at two epsilons, one of them with findings and one without samples."""
    keep("a", "mnist", "1/255", clean=9, robust=6)
    keep("a", "mnist", "4/255", clean=9, robust=2)
    keep("a", "gtsrb", "1/255", clean=7, robust=3)
    keep("b", "mnist", "1/255", clean=8, robust=5, checks=["epsilon 0 differs from clean for 2 images"])
    keep("b", "mnist", "4/255", clean=8, robust=1, substituted=["DLR needs 3 classes"], skipped=3)
    keep("b", "gtsrb", "1/255", clean=5, robust=1, samples=False)
    return tmp_path / "rows"


def page_of(folder):
    return Page(render_report(read_records([folder]), ".html"))


def markdown_tables(text):
    """Cells of each table of a Markdown text, without the ruler."""
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    lines = [[line.strip("| ").split(" | ") for line in table.splitlines()] for table in tables]
    return [[line for line in table if set(line[0]) != {"-"}] for table in lines]


def numbers_of(cells):
    return re.findall(r"\d+\.\d|samples not kept", " ".join(cells))


def test_numbers_are_those_of_the_rows(rows):
    accuracies, broken = page_of(rows).tables
    lines = {line[0].split()[0]: numbers_of(line) for line in accuracies if len(line) > 1}
    assert accuracies[0] == ["model", "images", "clean", "robust at 1/255", "robust at 4/255"]
    low, high = (f"{100 * end:.1f}" for end in wilson_interval(6, 10))
    assert any(numbers_of(line)[3:6] == ["60.0", low, high] for line in accuracies if line[0].startswith("a "))
    assert lines["a"] == ["80.0", "45.0"], "the last lines are the means: 9 and 7, 6 and 3 of 10"
    assert lines["b"] == ["65.0", "30.0"]
    assert broken[0] == ["model, threat model", "wrong clean", ATTACK, "robust"]


def test_what_broke_adds_up_to_what_is_not_robust(rows):
    _, broken = page_of(rows).tables
    shares = [[float(number) for number in numbers_of(line)] for line in broken if len(numbers_of(line)) > 1]
    assert sorted(shares) == sorted([[10, 30, 60], [10, 70, 20], [30, 40, 30], [20, 30, 50], [20, 70, 10]])
    assert [line[1] for line in broken if "samples not kept" in line[-1]] == ["samples not kept"]


def test_html_and_markdown_agree(rows):
    page = page_of(rows)
    tables = markdown_tables(render_report(read_records([rows]), ".md"))
    assert len(tables) == len(page.tables) == 2
    for html, markdown in zip(page.tables, tables, strict=True):
        found = [[numbers_of(line) for line in table] for table in (html, markdown)]
        html_numbers, markdown_numbers = ([numbers for numbers in table if numbers] for table in found)
        assert html_numbers == markdown_numbers
        assert len(html_numbers) > 5


def test_findings_name_their_rows(rows):
    texts = (page_of(rows).text, render_report(read_records([rows]), ".md").replace("*", ""))
    for text in texts:
        assert "mnist test, b, pgd20 v1, linf 1/255, seed 0" in text
        assert "check failed: epsilon 0 differs from clean for 2 images" in text
        assert "substituted: DLR needs 3 classes" in text
        assert "skipped: 3 images could not be read" in text
        assert text.index("check failed") < text.index("Protocol pgd20")
        assert len(re.findall(r"\d†| †", text)) == 2 + text.count("† marks")


def test_no_findings_are_said_to_be_none(keep, tmp_path):
    keep("a", "mnist", "1/255", clean=9, robust=6)
    assert "No row reports a failed check" in page_of(tmp_path).text
    assert "No row reports a failed check" in render_report(read_records([tmp_path]), ".md")


def test_the_header_says_what_was_measured(rows, keep):
    other = {"seed": 3, "versions": {"torch": "3"}, "finished": "2026-03-05T00:00:00+00:00"}
    keep("b", "gtsrb", "4/255", clean=5, robust=1, **other)
    for text in (page_of(rows).text, render_report(read_records([rows]), ".md")):
        assert "a (revision 01234567)" in text
        assert "pgd20 v1: PGD(steps=20" in text
        assert get_protocol("pgd20").source in text
        assert "0, 3" in text
        assert "gtsrb test: 10 images" in text
        assert "2026-01-01 to 2026-03-05" in text
        assert "torch 2, 3" in text


def test_rows_of_another_commit_are_findings(rows, keep):
    keep("b", "gtsrb", "4/255", clean=5, robust=1, versions={"robust-clip": "0.1.0+g11111111"})
    text = render_report(read_records([rows]), ".md")
    place = text.index("**other version**: robust-clip 0.1.0+g11111111, most rows unknown")
    assert text.rindex("\n- ", 0, place) == text.index("\n- gtsrb test, b, pgd20 v1, linf 4/255, seed 0")
    assert text.count("**other version**") == 1
    assert "other version" in page_of(rows).text


def test_protocols_have_a_table_each(rows, keep):
    clean = {"threat_model": None, "robust_accuracy": None, "robust_interval": None}
    keep("a", "mnist", "1/255", clean=9, robust=9, samples=False, protocol=get_protocol("clean").as_dict(), **clean)
    page = page_of(rows)
    assert [table[0][-1] for table in page.tables] == ["clean", "robust at 4/255", "robust"]
    assert len(markdown_tables(render_report(read_records([rows]), ".md"))) == 3


def test_a_plot_for_each_data_set_with_two_epsilons(rows):
    page = page_of(rows)
    drawn = [attrs["aria-label"] for tag, attrs in page.tags if tag == "figure" and "aria-label" in attrs]
    assert len(drawn) == sum(tag == "svg" for tag, _ in page.tags) == 1
    assert "on mnist" in drawn[0]


def test_without_matplotlib_the_page_says_why_there_is_no_plot(rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = page_of(rows)
    assert "pip install 'robust-clip[plots]'" in page.text
    assert len(page.tables) == 2
    assert "svg" not in dict(page.tags)


@pytest.fixture
def examples(keep, tmp_path):
    folder = keep("c", "mnist", "2/255", clean=9, robust=6)
    (folder / "examples").mkdir()
    image = ImageExample(4, 1, 1, 2, ATTACK, "c.png", "a.png", label_name="one", adversarial_name=EVIL)
    text = TextExample("a photo of one", f"a photo of {EVIL}")
    (folder / "examples" / "examples.json").write_text(json.dumps([asdict(image), asdict(text)]))
    for name, level in (("c.png", 100), ("a.png", 104)):
        Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(folder / "examples" / name)
    return tmp_path / "rows"


def test_examples_are_shown(examples):
    page = page_of(examples)
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "image 4, truly one, attacked by 1-pgd-cross_entropy" in page.text
    assert "perturbation × 32" in page.text
    assert f"adversarial: {EVIL}" in page.text
    markdown = render_report(read_records([examples]), ".md")
    assert "- image 4, truly one: class 1 when clean, &lt;script>" in markdown
    assert "- a photo of one → a photo of &lt;script>" in markdown


def test_a_page_loads_nothing_and_runs_nothing(examples, rows):
    page = page_of(rows)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for _, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs)
        for name in {"src", "href", "xlink:href", "srcset", "data", "action"} & attrs.keys():
            assert attrs[name].startswith(("#", "data:image/png;base64,"))
    html = render_report(read_records([rows]), ".html")
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "default-src 'none'" in html
    assert {attrs.get("name") for tag, attrs in page.tags if tag == "meta"} >= {"viewport", "color-scheme"}


def test_what_comes_from_files_is_escaped(keep, row, tmp_path):
    protocol = get_protocol("pgd20", epsilon="1/255").as_dict() | {"source": EVIL, "name": EVIL}
    evil = {
        "dataset": row().dataset | {"split": EVIL, "name": EVIL},
        "protocol": protocol,
        "checks": [EVIL],
        "substituted": [EVIL],
        "versions": {EVIL: EVIL},
        "threat_model": EVIL,
        "finished": EVIL,
    }
    keep(EVIL, EVIL, "1/255", clean=9, robust=6, **evil)
    evil["protocol"] = protocol | {"threat_model": {"norm": "linf", "epsilon": 0.1}}
    keep(EVIL, EVIL, "4/255", clean=9, robust=6, **evil)
    html, markdown = (render_report(read_records([tmp_path]), kind) for kind in (".html", ".md"))
    assert "<script" not in html
    assert "<script" not in markdown
    assert Page(html).text.count(EVIL) > 8
    assert markdown.count("&lt;script>") > 8


def test_a_report_is_the_same_every_time(rows, tmp_path):
    for name in ("one.html", "two.html", "one.md", "two.md"):
        write_report(read_records([rows]), tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert (tmp_path / "one.md").read_bytes() == (tmp_path / "two.md").read_bytes()


@pytest.mark.parametrize("name", ["report.pdf", "report", "report.htm"])
def test_another_kind_is_refused(rows, tmp_path, name):
    with pytest.raises(ValueError, match=r"ends in \.html or \.md, got .*report"):
        write_report(read_records([rows]), tmp_path / name)


def test_a_name_stands_for_one_model(rows, keep):
    keep("a", "cifar10", "1/255", clean=5, robust=1, model={"id": "a", "revision": "sha256:other"})
    with pytest.raises(ValueError, match="two models in these rows"):
        render_report(read_records([rows]), ".html")


def test_samples_that_do_not_fit_are_refused(rows, keep):
    folder = keep("c", "cifar10", "1/255", clean=5, robust=1)
    write_samples(folder / "samples.parquet", [Sample(0, 1, 1)])
    with pytest.raises(ValueError, match="samples kept for c on cifar10 are not those of the row"):
        render_report(read_records([rows]), ".md")


def test_a_report_that_cannot_be_written_leaves_the_one_before(rows, tmp_path, monkeypatch):
    path = tmp_path / "report.md"
    path.write_text("before")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.write_text", full)
        with pytest.raises(ValueError, match=r"cannot write .*report.md \(No space left on device\): make room, or"):
            write_report(read_records([rows]), path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.md", "rows"]
    assert path.read_text() == "before"
