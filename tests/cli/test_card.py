"""`robust-clip card`: which rows a card takes, what the command line tells it, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from robust_clip import packaged_checkpoint
from robust_clip.cli import main
from robust_clip.evaluation import Row, checkpoint_revision, weights_revision
from robust_clip.evaluation.tables import read_rows
from tests.hub.hub_double import learned_folder, trained_folder

ROWS = Path(__file__).parents[2] / "model_cards" / "rows"
RECIPE = "# The paper.\nobjective: tecoa   # Eq. 3\ntraining:\n  learning_rate: 1e-5   # section 4.1\n"


@pytest.fixture
def folder(tiny_model: Any, tiny_processor: Any, tmp_path: Path) -> Path:
    return trained_folder(tmp_path / "nano", tiny_model, tiny_processor)


def rows_of(revision: str, name: str = "nano") -> list[Row]:
    """Rows of one data set at three epsilons, said to be of weights of that revision."""
    found = [row for row in read_rows(ROWS / "nano_clip") if row.dataset["name"] == "cifar10"]
    return [replace(row, model={"id": name, "revision": revision}) for row in found]


def write(rows: list[Row], folder: Path) -> Path:
    for number, row in enumerate(rows):
        (folder / str(number)).mkdir(parents=True)
        row.write(folder / str(number) / "row.json")
    return folder


def test_a_card_with_plot_licence_notes_and_recipe(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(rows_of(checkpoint_revision(str(folder), None)), tmp_path / "rows")  # type: ignore[arg-type]
    (tmp_path / "notes.md").write_text("For tests **alone**.\n")
    (tmp_path / "paper.yaml").write_text(RECIPE)
    (folder / "recipe.yaml").write_text("objective: {name: tecoa}\ntraining: {learning_rate: 3e-5, seed: 1}\n")
    told = ["--title", "someone/nano", "--licence", "mit", "--base_licence", "their own"]
    files = [("--rows", "rows"), ("--notes", "notes.md"), ("--recipe", "paper.yaml")]
    assert main(["card", str(folder), *told, *(x for k, v in files for x in (k, str(tmp_path / v)))]) == 0
    assert capsys.readouterr().out == f"Wrote {folder}/README.md, from 3 rows of these weights.\n"
    card = ModelCard.load(folder / "README.md")
    (plot,) = folder.glob("accuracy-*.png")
    for text in (
        'from_pretrained("someone/nano")',
        "For tests **alone**.",
        RECIPE.strip(),
        "- `training.learning_rate: 3e-05 instead of 1e-05`",
        "- `training.seed: 1`",
        "| cifar10 | test | 1000 | pgd20 v1, native grid, seed 0 | 61.0 [57.9, 64.0] | 24.4 [21.8, 27.2] | 5.2 [",
        f"]({plot.name})",
        "these weights: mit",
    ):
        assert text in card.text
    assert [result.metric_value for result in card.data.eval_results] == [0.61, 0.244, 0.052, 0.0]
    assert plot.stat().st_size > 5000


def test_a_card_without_rows_is_warned_of_with_the_command_that_measures(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["card", str(folder), "--licence", "mit"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"Wrote {folder}/README.md, from 0 rows of these weights.\n"
    assert printed.err.startswith(f"Warning: there is no row of the weights in {folder}")
    assert f"robust-clip evaluate --model {folder} --datasets cifar10 --protocol" in printed.err
    assert "Not measured yet" in (folder / "README.md").read_text()
    write(rows_of(checkpoint_revision(str(folder), None)), folder / "records")  # type: ignore[arg-type]
    assert main(["card", str(folder)]) == 0
    assert capsys.readouterr().err == ""
    assert "Not measured yet" not in (folder / "README.md").read_text()


@pytest.mark.parametrize("kind", ["on disk", "in memory", "pushed"])
def test_rows_are_known_by_their_revision(
    kind: str, folder: Path, tiny_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    on_disk = checkpoint_revision(str(folder), None)  # type: ignore[arg-type]
    revision = {"on disk": on_disk, "in memory": weights_revision(tiny_model), "pushed": "0123abc"}[kind]
    others = [replace(row, clean_accuracy=0.5) for row in rows_of("sha256:other", "undefended")]
    write(rows_of(revision) + others, folder / "records")
    assert main(["card", str(folder), "--stdout"]) == 0
    card = ModelCard(capsys.readouterr().out)
    assert len(card.data.eval_results) == 4
    assert "| undefended | cifar10 |" in card.text
    assert not (folder / "README.md").exists()


def test_rows_of_weights_that_were_run_in_two_ways_make_no_card(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows_of(checkpoint_revision(str(folder), None))  # type: ignore[arg-type]
    told = zip(found, ("gelu", "quick_gelu"), strict=False)
    write([replace(row, model=row.model | {"settings": {"hidden_act": act}}) for row, act in told], folder / "records")
    assert main(["card", str(folder), "--stdout"]) == 2
    assert "run in two ways, whose settings.hidden_act is " in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["adapter", "prompts"])
def test_rows_of_an_adapter_and_of_prompts(
    kind: str, tiny_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = learned_folder(kind, tmp_path / "mine", tiny_model)
    others = [replace(row, clean_accuracy=0.5) for row in rows_of("memory-sha256:0", "undefended")]
    write(rows_of("memory-sha256:1", "mine") + others, folder / "records")
    assert main(["card", str(folder), "--stdout"]) == 0
    card = ModelCard(capsys.readouterr().out)
    assert len(card.data.eval_results) == 4
    assert "| undefended | cifar10 |" in card.text


def test_the_card_of_the_packaged_model_comes_from_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    where = packaged_checkpoint("nano_clip")
    assert main(["card", where, "--rows", str(ROWS), "--title", "nano_clip", "--stdout"]) == 0
    card = ModelCard(capsys.readouterr().out)
    own = read_rows(ROWS / "nano_clip")
    robust = [result.metric_value for result in card.data.eval_results if result.metric_type == "robust_accuracy"]
    assert sorted(robust) == sorted(round(row.robust_accuracy or 0, 4) for row in own)
    assert "| nano_clip_tecoa | imagenette | test | 1000 |" in card.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", str(ROWS / "nano_clip")], "belongs to the weights in.*: they are of nano_clip (sha256:"),
        (["--rows", "nowhere"], "nowhere holds no row.json"),
        (["--notes", "nowhere.md"], "Cannot read nowhere.md"),
        (["--recipe", "nowhere.yaml"], "Cannot read the recipe nowhere.yaml"),
        (["--licence", "Mine Alone"], "identifier of the Hub"),
    ],
)
def test_says_what_is_wrong(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["card", str(folder), *arguments]) == 2
    told = capsys.readouterr().err
    assert all(part in told for part in message.split(".*"))
    assert told.count("\n") == 1
    assert not (folder / "README.md").exists()


def test_a_folder_without_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(tmp_path)]) == 2
    assert "holds nothing to load" in capsys.readouterr().err
