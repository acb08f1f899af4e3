"""Tables in Markdown."""

from dataclasses import replace
from pathlib import Path

import pytest

from robust_clip.evaluation import Row, evaluate_robustness, get_protocol
from robust_clip.evaluation.tables import insert_table, markdown_table, read_rows

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rows(tiny_model, tiny_processor, coloured, tmp_path) -> list[Row]:
    return [
        evaluate_robustness(
            tiny_model,
            tiny_processor.tokenizer,
            coloured,
            get_protocol("pgd20", epsilon=epsilon, samples=8),
            records_dir=tmp_path / "rows",
        )
        for epsilon in ("4/255", "1/255")
    ]


def test_one_line_per_model_one_column_per_epsilon(rows):
    lines = markdown_table(rows).splitlines()
    assert lines[0] == "| data set | model | images | clean | robust at 1/255 | robust at 4/255 |"
    assert len([line for line in lines if line.startswith("| coloured |")]) == 1
    measure = "Protocol pgd20 v1, linf, native grid, single templates, fp32, test split, seed 0"
    assert lines[4] == f"{measure}. In %, with 95 % Wilson intervals."
    assert all(line.startswith("† ") for line in lines[5:] if line)


def test_numbers_are_those_of_the_rows(rows):
    changed = [replace(row, robust_accuracy=0.5, robust_interval=(0.25, 0.75)) for row in rows]
    assert markdown_table(changed).count("50.0 [25.0, 75.0]") == 2


def test_rows_on_disk_are_found(rows, tmp_path):
    assert sorted(row.threat_model for row in read_rows(tmp_path)) == ["linf 1/255", "linf 4/255"]
    with pytest.raises(ValueError, match=r"holds no row\.json"):
        read_rows(tmp_path / "nothing")


def test_protocols_splits_and_seeds_are_not_mixed(rows):
    others = [
        replace(rows[1], seed=1),
        replace(rows[1], dataset=rows[1].dataset | {"split": "train"}),
        replace(rows[1], protocol=rows[1].protocol | {"templates": "ensemble"}),
        replace(rows[1], protocol=rows[1].protocol | {"precision": "bf16"}),
    ]
    for other in others:
        with pytest.raises(ValueError, match="one protocol and seed, these rows have 2"):
            markdown_table([rows[0], other])


def test_rows_of_another_commit_are_named_below_the_table(row):
    versions = {"a": "0.1.0+g11111111", "b": "0.1.0+g22222222", "c": "0.1.0+g22222222"}
    rows = [row(model={"id": name, "revision": name}, versions={"robust-clip": v}) for name, v in versions.items()]
    table, measure, note = markdown_table(rows).split("\n\n")
    assert (len(table.splitlines()), measure.startswith("Protocol p v1")) == (5, True)
    told = "Measured by robust-clip 0.1.0+g11111111, not by 0.1.0+g22222222 as most: a on coloured linf 4/255."
    assert note == told
    assert "Measured by" not in markdown_table(rows[1:])
    old = row(model={"id": "d", "revision": "d"}, versions={})
    assert "by robust-clip unknown, not by 0.1.0+g22222222 as most: d on" in markdown_table([*rows, old])


def test_a_cell_has_one_row(rows):
    with pytest.raises(ValueError, match="Two rows measure .* on coloured at 4/255"):
        markdown_table([*rows, rows[0]])


def test_a_name_stands_for_one_model(rows):
    other = replace(rows[1], model=rows[1].model | {"revision": "sha256:other"})
    told = f"two models in these rows, whose revision is '{rows[0].model['revision']}' there and 'sha256:other' here"
    with pytest.raises(ValueError, match=told):
        markdown_table([rows[0], other])


def test_names_do_not_break_the_table(row):
    line = markdown_table([row(model={"id": "a|b <script>\n![x](http://y)", "revision": "1"})]).splitlines()[2]
    assert line.startswith("| coloured | a\\|b &lt;script> !\\[x\\](http://y) | 4 | 75.0 [30.0, 95.0] |")


def test_table_replaces_what_stands_between_the_markers(tmp_path):
    file = tmp_path / "page.md"
    file.write_text("before\n<!-- rows:begin -->\nold\n<!-- rows:end -->\nafter\n")
    insert_table(file, "new")
    assert file.read_text() == "before\n<!-- rows:begin -->\nnew\n<!-- rows:end -->\nafter\n"
    with pytest.raises(ValueError, match=r"nowhere.md is not there: make a file with <!-- rows:begin -->"):
        insert_table(tmp_path / "nowhere.md", "new")
    with pytest.raises(ValueError, match="no place for the table"):
        insert_table(ROOT / "LICENSE", "new")


def test_tables_show_what_the_rows_say():
    """They are rendered, not typed: all data sets in one file, two of them in the other."""
    cards = ROOT / "model_cards"
    assert markdown_table(read_rows(cards / "rows")) in (cards / "tecoa.md").read_text()
    few = sorted(cards.glob("rows/*/cifar10-test")) + sorted(cards.glob("rows/*/tiny_imagenet-test"))
    assert markdown_table(row for folder in few for row in read_rows(folder)) in (ROOT / "README.md").read_text()


def test_what_a_reader_must_know_stands_by_the_number_and_below_the_table(row):
    table = markdown_table([row(checks=["the model is random"], skipped=2), row(model={"id": "b", "revision": "2"})])
    sound, marked = table.splitlines()[2:4]
    assert [marked.count("†"), sound.count("†")] == [2, 0]  # images that are left out are so of the clean number, too
    assert table.splitlines()[-1] == (
        "† clip on coloured linf 4/255: the model is random; 2 images could not be read and count in no number."
    )


def test_an_unfinished_run_has_no_rows_yet(tmp_path):
    (tmp_path / "photos-test" / "pgd20").mkdir(parents=True)
    (tmp_path / "photos-test" / "pgd20" / "identity.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no finished run, and 1 that were interrupted: go on with --resume"):
        read_rows(tmp_path)
