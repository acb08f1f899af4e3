"""`robust-clip report`: where the table or the report goes."""

from pathlib import Path

import pytest

from robust_clip.cli import main
from robust_clip.evaluation.tables import markdown_table, read_rows

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "model_cards" / "rows"


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(ROWS)]) == 0
    assert capsys.readouterr().out == markdown_table(read_rows(ROWS)) + "\n"


def test_the_table_is_put_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "README.md"
    page.write_text((ROOT / "model_cards" / "tecoa.md").read_text())
    assert main(["report", str(ROWS), "--into", str(page)]) == 0
    assert page.read_text() == (ROOT / "model_cards" / "tecoa.md").read_text()
    assert capsys.readouterr().out == f"Wrote the table into {page}.\n"


@pytest.mark.parametrize(("name", "beginning"), [("r.html", "<!doctype html>"), ("r.md", "# Robustness report")])
def test_a_report_is_written(
    tmp_path: Path, name: str, beginning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(ROWS / model) for model in ("nano_clip", "nano_clip_tecoa")]
    assert main(["report", *folders, "--out", str(tmp_path / name)]) == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path / name}.\n"
    text = (tmp_path / name).read_text()
    assert text.startswith(beginning)
    for row in read_rows(ROWS / "nano_clip_tecoa"):
        assert f"{100 * row.robust_accuracy:.1f}" in text  # type: ignore[operator]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--out", "report.pdf"], "ends in .html or .md, got report.pdf"),
        (["nowhere", "--out", "report.html"], "nowhere holds no row.json"),
        ([str(ROWS), "--out", "no/such/folder/report.md"], "no/such/folder"),
    ],
)
def test_what_cannot_be_written_is_said_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_a_report_and_a_table_are_not_written_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["report", str(ROWS), "--out", "report.md", "--into", "README.md"])
    assert "not allowed with" in capsys.readouterr().err
