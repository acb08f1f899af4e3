"""Pages with numbers are what their commands render from the rows beside them."""

import re
from pathlib import Path

import pytest

from robust_clip.cli import main
from robust_clip.cli.comparison_table import read_comparisons
from robust_clip.cli.step_cost import cost_table, read_costs
from robust_clip.cli.study import render
from robust_clip.cli.study_plan import StudyPlan
from robust_clip.evaluation.report import read_records, render_report
from robust_clip.evaluation.tables import read_rows

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "model_cards"


def between_markers(page: Path) -> str:
    return page.read_text().split("<!-- rows:begin -->\n")[1].split("\n<!-- rows:end -->")[0]


@pytest.mark.parametrize(
    ("study", "rows", "page", "means_only"),
    [
        ("nano_tiny_imagenet", CARDS / "compare" / "rows", CARDS / "compare" / "README.md", False),
        ("nano_tiny_imagenet", CARDS / "compare" / "rows", ROOT / "recipes" / "README.md", True),
        ("nano_tiny_imagenet", CARDS / "compare" / "tried", CARDS / "compare" / "tried" / "README.md", False),
        ("nano_adaptations", CARDS / "adaptations" / "rows", CARDS / "adaptations" / "README.md", False),
    ],
    ids=["compare", "index of papers", "tried", "adaptations"],
)
def test_studies(study: str, rows: Path, page: Path, means_only: bool) -> None:
    plan = StudyPlan.read(ROOT / "recipes" / "compare" / f"{study}.yaml")
    assert between_markers(page) == render(read_rows(rows), plan, means_only=means_only)


@pytest.mark.parametrize("page", sorted(set(CARDS.glob("*.md")) - {CARDS / "README.md"}), ids=lambda page: page.stem)
def test_papers(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each names the command that wrote its tables."""
    told = re.search(rf"robust-clip report (.+) --into model_cards/{page.stem}\.md", page.read_text())
    assert told
    folders = [str(found) for pattern in told[1].split() for found in sorted(ROOT.glob(pattern))]
    assert main(["report", *folders]) == 0
    assert capsys.readouterr().out == f"{between_markers(page)}\n"


def test_step_costs() -> None:
    assert between_markers(CARDS / "step_costs" / "README.md") == cost_table(read_costs(CARDS / "step_costs"))


def test_comparisons() -> None:
    folder = CARDS / "beside_pyautoattack"
    assert between_markers(folder / "README.md") == read_comparisons(folder)


@pytest.mark.parametrize("name", ["attacked_texts", "protocols", "test_time_defences"])
def test_reports(name: str) -> None:
    assert (CARDS / name / "README.md").read_text() == render_report(read_records([CARDS / name]), ".md")
