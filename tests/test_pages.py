"""Pages with numbers are what their commands render from the rows beside them."""

import json
import re
from pathlib import Path

import pytest

from robust_clip.attacks import VERSIONS
from robust_clip.cli import main
from robust_clip.cli.comparison_table import PACKAGES, read_comparisons
from robust_clip.cli.step_cost import cost_table, read_costs
from robust_clip.cli.study import render
from robust_clip.cli.study_plan import StudyPlan
from robust_clip.evaluation.report import read_records, render_report
from robust_clip.evaluation.tables import read_rows

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "model_cards"
ORDER = ["pgd20", "pgd100", "cw", "apgd_ce", "autoattack_standard"]


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


@pytest.mark.parametrize("file", sorted((CARDS / "beside_pyautoattack").glob("*.json")), ids=lambda file: file.stem)
def test_ours_is_no_weaker_than_pyautoattack(file: Path) -> None:
    """In total never more than 0.3 points above it, and no attack more than 0.5 points or an image from it."""
    found = json.loads(file.read_text())
    standing = {(each["attack"], each["package"]): set(each["standing"]) for each in found["outcomes"]}
    attacks = list(dict.fromkeys(each["attack"] for each in found["outcomes"]))
    pairs = [[standing[attack, package] for package in PACKAGES] for attack in attacks]
    if in_a_row := found["outcomes"][0]["plan"] == "in a row":
        assert attacks == [str(run) for run in VERSIONS["standard"]]
    for ours, theirs in pairs:
        assert ours == theirs if in_a_row else abs(len(ours) - len(theirs)) <= max(1, 0.005 * found["n"])
    assert len(pairs[-1][0]) <= len(pairs[-1][1]) + 0.003 * found["n"] or not in_a_row


def test_stronger_attacks_leave_no_more() -> None:
    """No column of the table of five attacks lies above an earlier one by more than its interval."""
    found = {
        (row.model["id"], row.dataset["name"], row.threat_model, row.protocol["name"]): row
        for row in read_rows(CARDS / "protocols")
    }
    compared = 0
    for (*place, name), row in found.items():
        weaker = ORDER[: ORDER.index(name)]
        for before in (found[(*place, each)] for each in weaker if (*place, each) in found):
            assert row.robust_interval[0] <= before.robust_accuracy
            compared += 1
    assert compared
