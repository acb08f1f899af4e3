"""The commands as a user meets them: help, results on disk, and one line for a mistake."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paired_clip import captioned_rows
from robust_clip.cli import COMMANDS, main
from robust_clip.cli.sections import DataSource

NAMES = [command.__name__.rsplit(".", 1)[1] for command in COMMANDS]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    array = np.random.default_rng(0).integers(0, 120, (16, 16, 3), dtype=np.uint8)
    array[..., 0] += 120
    Image.fromarray(array).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("name", NAMES)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main([name, "--help"])
    assert done.value.code == 0
    assert f"robust-clip {name}" in capsys.readouterr().out


def test_attack_writes_an_image_within_the_ball(tiny_checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--model", str(tiny_checkpoint), "--image", str(photo), "--classes", "red,green", "--out", str(out)]
    assert main(["attack", *arguments, "--epsilon", "3/255"]) == 0
    clean = np.asarray(Image.open(photo)).astype(int)
    adversarial = np.asarray(Image.open(out / "adversarial.png")).astype(int)
    assert 0 < np.abs(adversarial - clean).max() <= 3
    assert Image.open(out / "comparison.png").width > 3 * 224


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--epsilon": "4"}, "did you mean 4/255"),
        ({"--attack": "nope"}, "known: apgd, auto_attack"),
        ({"--classes": "red"}, "at least two class names"),
        ({"--classes": "red,green,red"}, "['red'] stands twice"),
        ({"--epsilon": "0"}, "linf 0 leaves every image as it is"),
        ({"--label": "pink"}, "not among the class names"),
        ({"--image": "nowhere.png"}, "No image file nowhere.png"),
        ({"--template": "a photo"}, "needs a {}"),
        ({"--model": "nobody/nothing"}, "nobody/nothing"),
    ],
)
def test_attack_says_what_is_wrong(
    changes: dict[str, str],
    message: str,
    tiny_checkpoint: Path,
    photo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {"--model": str(tiny_checkpoint), "--image": str(photo), "--classes": "red,green"}
    options |= {"--out": str(tmp_path / "out")} | changes
    assert main(["attack", *(part for pair in options.items() for part in pair)]) == 2
    assert message in capsys.readouterr().err


def test_evaluate_then_report(tiny_checkpoint: Path, coloured_folder: Path, tmp_path: Path, capsys) -> None:
    options = ["--model", str(tiny_checkpoint), "--data", str(coloured_folder), "--protocol", "pgd20"]
    assert main(["evaluate", *options, "--samples", "6", "--records", str(tmp_path), "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["n"] == 6
    assert main(["report", str(tmp_path)]) == 0
    assert f"| 6 | {100 * row['clean_accuracy']:.1f} [" in capsys.readouterr().out


@pytest.fixture
def recipe(tmp_path: Path, tiny_checkpoint: Path, coloured_folder: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model: {tiny_checkpoint}\nobjective: tecoa\nattack: {{name: pgd, steps: 1}}\n"
        f"threat_model: {{norm: linf, epsilon: 1/255}}\ndata: {{train: {coloured_folder}}}\n"
        f"training: {{output_dir: {tmp_path / 'out'}, max_steps: 1, report_to: none, disable_tqdm: true}}\n"
    )
    return path


def test_train_leaves_a_checkpoint_a_card_and_the_recipe(recipe: Path, tmp_path: Path) -> None:
    assert main(["train", str(recipe), "--threat_model.epsilon", "2/255"]) == 0
    assert {"model.safetensors", "config.json", "README.md", "recipe.yaml", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["robustness"]["threat model"] == "linf 2/255"


def test_train_says_how_to_measure_and_a_finished_run_has_nothing_left_to_do(
    recipe: Path, tmp_path: Path, coloured_folder: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = f"robust-clip evaluate --model {out} --datasets {coloured_folder} --protocol pgd20 --epsilon 1/255 "
    command += f"--records {out}/records"
    assert main(["train", str(recipe)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Wrote {out}. Measure the model, such as by: {command}"
    monkeypatch.setattr(DataSource, "load", lambda source: pytest.fail("data were loaded"))
    assert main(["train", str(recipe), "--resume"]) == 0
    told = f"{out} holds this run to its end: nothing is left to do. Measure the model, such as by: {command}\n"
    assert capsys.readouterr().out == told
    assert main(["train", str(recipe), "--resume", "--training.max_steps", "2"]) == 2
    assert "finished run of another recipe" in (complaint := capsys.readouterr().err)
    assert "training.max_steps: 2 instead of 1" in complaint
    shutil.move(out, tmp_path / "moved")
    elsewhere = ["--training.output_dir", str(tmp_path / "moved"), "--training.logging_steps", "7"]
    assert main(["train", str(recipe), "--resume", *elsewhere]) == 0
    shutil.move(tmp_path / "moved", out)
    assert main(["train", str(recipe)]) == 2
    assert "already holds a finished run" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*command.split()[1:], "--samples", "3"]) == 0
    assert list(out.rglob("row.json"))


def test_training_on_captions_says_how_to_measure_recall(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "squares"
    data.mkdir()
    for split in ("train", "test"):
        captioned_rows().to_parquet(data / f"{split}.parquet")
    options = ["--objective", "{name: mmcoa, domain: image}", "--data.train", str(data), "--data.resolution", "model"]
    options += ["--adaptation", "{name: full, towers: [vision, text], logit_scale: true}"]
    assert main(["train", str(recipe), *options]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    command = told.split("such as by: ")[1]
    assert command.startswith(f"robust-clip retrieve --model {tmp_path / 'out'} --datasets {data} --attack image")
    assert main([*command.split()[1:], "--steps", "1"]) == 0
    assert main(["train", str(recipe), *options, "--resume"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("nothing is left to do.")


def test_checkpoints_of_another_recipe_are_not_gone_on_from(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = ["--training.save_strategy", "steps", "--training.save_steps", "1"]
    assert main(["train", str(recipe), *saved]) == 0
    (tmp_path / "out" / "trainer_state.json").unlink()  # as a run that was killed leaves it
    assert main(["train", str(recipe), *saved, "--resume", "--training.learning_rate", "0.5"]) == 2
    assert "holds the checkpoints of an unfinished run of another recipe" in (told := capsys.readouterr().err)
    assert "training.learning_rate: 0.5" in told
    later = ["--evaluation", json.dumps({"datasets": {"seen": {}}, "samples": 2, "undefended": False})]
    assert main(["train", str(recipe), *saved, *later, "--resume"]) == 0


def test_train_measures_before_and_after(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = {"datasets": {"seen": {"classes": "0:2"}}, "epsilons": ["1/255"], "samples": 4}
    during = ["--training.eval_strategy", "steps", "--training.eval_steps", "1", "--training.eval_samples", "2"]
    assert main(["train", str(recipe), "--evaluation", json.dumps(evaluation), *during]) == 0
    printed = capsys.readouterr().out
    assert printed.index("undefended: ") < printed.index("robust: out (")
    assert "Not measured yet" not in (card := (tmp_path / "out" / "README.md").read_text())
    assert any(line.startswith("| seen | ") for line in card.splitlines())
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert any("eval_seen_robust_accuracy" in entry for entry in state["log_history"])


@pytest.mark.parametrize("towers", [["text"], ["vision", "text"]], ids=["alone", "beside the image tower"])
def test_evaluate_finds_the_residuals_that_train_learned(
    towers: list[str], recipe: Path, tmp_path: Path, coloured_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = "text" if towers == ["text"] else "joint"
    changes = ["--objective", f"{{name: tima, stage: {stage}}}"]
    changes += ["--adaptation", f"{{name: full, towers: {towers}, class_residuals: true}}"]
    changes += ["--attack", "null", "--threat_model", "null"] if stage == "text" else []
    assert main(["train", str(recipe), *changes]) == 0
    options = ["--model", str(tmp_path / "out"), "--data", str(coloured_folder), "--protocol", "pgd20"]
    capsys.readouterr()
    assert main(["evaluate", *options, "--samples", "6", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["n"] == 6
    assert main(["evaluate", *options, "--samples", "6", "--templates", "ensemble"]) == 2
    assert "templates of the training data, and no others" in capsys.readouterr().err


@pytest.mark.parametrize(("state", "message"), [("finished", "a finished run"), ("unwritable", "cannot write to")])
def test_an_output_directory_is_refused_before_data_are_loaded(
    state: str, message: str, recipe: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(DataSource, "load", lambda source: pytest.fail("data were loaded"))
    if state == "finished":
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "trainer_state.json").write_text("{}")
    else:
        (tmp_path / "out").write_text("a file, where nobody can make a folder")
    assert main(["train", str(recipe)]) == 2
    assert message in capsys.readouterr().err


def test_a_model_that_is_not_there_is_refused_before_anything_else(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(DataSource, "load", lambda source: pytest.fail("data were loaded"))
    assert main(["train", str(recipe), "--model", str(tmp_path / "nano_clip_tecoa")]) == 2
    assert "nano_clip_tecoa': no such folder. Packaged checkpoints: nano_clip" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--threat_model.epsilon", "4"], "did you mean 4/255"),
        (["--threat_model.epsilon", "4", "--attack", "null"], "did you mean 4/255"),
        (["--attack", "null"], "An attack needs a threat model"),
        (["--evaluation.protocol", "pgd20"], "missing 1 required positional argument: 'datasets'"),
        (["--evaluation.datasets.x.templates", "ensemble"], "allowed: classes, name, root, split"),
        (["--evaluation.datasets.x.name", "{a: 1}"], "accuracy is of one"),
        (["--evaluation", "{datasets: {x: {}}, resolution: nativ}"], "resolution must be one of"),
        (["--objective", "nope"], "Unknown objective 'nope'; known: adv, adv_flyp, agft"),
        (["--attack.name", "nope"], "Unknown attack 'nope'; known: apgd, auto_attack"),
        (["--attack.stpes", "3"], "Unknown key 'stpes' in section attack; did you mean steps?"),
        (["--training.learning_rat", "3"], "key 'learning_rat' in section training; did you mean learning_rate?"),
        (["--data.train", "nope"], "No data set 'nope'"),
        (["--data.train", "nobody/nothing"], "cannot be reached"),
        (["--model", "nobody/nothing"], "nobody/nothing"),
        (["--data.templates", "[a photo]"], "needs a {}"),
        (["--data.classes", "[1, 2]"], "list of strings"),
        (["--data.split", "validation"], "no split 'validation'"),
        (["--nothing.at_all", "1"], "Unknown option"),
    ],
)
def test_train_says_what_is_wrong(
    overrides: list[str], message: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe), *overrides]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_an_interruption_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robust_clip.cli.evaluate.require_batch_size", interrupted)
    asked = ["evaluate", "--model", "nano_clip", "--datasets", "digits", "--protocol", "clean"]
    assert main([*asked, "--records", "rows"]) == 130
    assert capsys.readouterr().err == "\nrobust-clip evaluate: interrupted; go on with --resume from what was kept\n"
    assert main(asked) == 130
    assert capsys.readouterr().err == "\nrobust-clip evaluate: interrupted\n"
