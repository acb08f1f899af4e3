"""Our attacks beside those of pyautoattack."""

import json
from itertools import product

import pytest

from robust_clip.attacks import VERSIONS
from robust_clip.cli import main
from robust_clip.cli.comparison_table import PACKAGES, Outcome, format_comparison

pytest.importorskip("pyautoattack")


@pytest.fixture
def arguments(tiny_checkpoint, tmp_path):
    """Of a comparison on digits, under which a model of random weights gets some right by chance."""
    where = ["--model", str(tiny_checkpoint), "--datasets", "digits", "--out", str(tmp_path / "out.json")]
    return ["compare", *where, "--samples", "48", "--epsilon", "64/255"]


def test_each_package_gets_what_its_own_attacks_left(arguments, tmp_path, capsys):
    assert main(arguments) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert 0 < found["right_clean"] < found["n"] == 48
    for package in ("robust-clip", "pyautoattack"):
        outcomes = [outcome for outcome in found["outcomes"] if outcome["package"] == package]
        assert [outcome["attack"] for outcome in outcomes] == [
            "apgd-cross_entropy",
            "apgd_t-dlr",
            "fab_t-margin",
            "square-margin",
        ]
        left = found["right_clean"]
        for outcome in outcomes:
            assert outcome["begun"] == left
            assert (outcome["forward_passes"] > 0) == (left > 0)
            assert outcome["backward_passes"] <= outcome["forward_passes"]
            left = len(outcome["standing"])
    table = capsys.readouterr().out
    assert table.startswith(f"{found['model']} (memory {found['revision'].split(':')[1][:8]}), {found['dataset']}, ")
    assert table.count("| in a row | all | ") == 2
    (version,) = {outcome["version"] for outcome in found["outcomes"]}
    assert table.endswith(f" times in CPU seconds. Measured by robust-clip {version}.\n")
    assert main(["compare", "--render", str(tmp_path)]) == 0
    assert capsys.readouterr().out == table


def test_a_comparison_goes_on_and_mixes_with_no_other(arguments, tmp_path, capsys):
    alone = [*arguments, "--attacks", "apgd-cross_entropy"]
    assert main(alone) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    kept = [outcome for outcome in found["outcomes"] if outcome["package"] == "robust-clip"]
    kept[0]["standing"] = [7]
    (tmp_path / "out.json").write_text(json.dumps(found | {"outcomes": kept}))
    assert main(alone) == 0
    outcomes = json.loads((tmp_path / "out.json").read_text())["outcomes"]
    assert [outcome["package"] for outcome in outcomes] == ["robust-clip", "pyautoattack"]
    assert outcomes[0]["standing"] == [7]
    assert main([*alone, "--seed", "1"]) == 2
    assert "seed 0 there and 1 here" in capsys.readouterr().err


def test_attacks_that_took_no_time_have_a_table():
    identity = {"model": "m", "revision": "a", "dataset": "d", "threat_model": "linf 4/255", "n": 1, "right_clean": 1}
    identity |= {"seed": 0, "batch_size": 1, "threads": 1}
    runs = product(map(str, VERSIONS["standard"]), PACKAGES)
    outcomes = [Outcome("in a row", run, package, 0, [], 0.0, 0.0, 0, 0) for run, package in runs]
    assert "0 and 0 images stand in the end; theirs took 0.00 times" in format_comparison(identity, outcomes)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "nano_clip"], "give what to compare on, --model and --datasets"),
        (["--model", "nano_clip", "--datasets", "digits", "--into", "page.md"], "--into takes the tables of --render"),
        (["--render", "nowhere", "--out", "more.json"], "leave --model, --datasets and --out out"),
        (["--model", "nano_clip", "--datasets", "digits", "--epsilon", "0"], "linf 0 leaves every image as it is"),
        (["--model", "nano_clip", "--datasets", "digits", "--attacks", "fab"], "unknown attacks fab, known: apgd"),
        (["--model", "nano_clip", "--datasets", "digits", "--out", "/dev/null/out.json"], "cannot write to /dev/null"),
        (["--render", "nowhere"], "nowhere has no JSON files; measure with robust-clip compare --out"),
    ],
)
def test_what_cannot_be_compared_or_rendered_is_refused(arguments, told, capsys):
    assert main(["compare", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_batch_of_no_images_is_refused(arguments, capsys):
    assert main([*arguments, "--batch_size", "0"]) == 2
    assert "batch_size must be at least 1, got 0" in capsys.readouterr().err


def test_ours_leaves_no_more_standing_than_theirs(tmp_path):
    """On a model that is trained, whose logits differ from class to class as those of random weights do not."""
    where = ["--model", "nano_clip", "--datasets", "digits", "--out", str(tmp_path / "out.json")]
    more = ["--samples", "16", "--epsilon", "1/255", "--attacks", "apgd-cross_entropy"]
    assert main(["compare", *where, *more]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    ours, theirs = (len(outcome["standing"]) for outcome in found["outcomes"])
    assert 0 < theirs < found["right_clean"]
    assert ours <= theirs


def test_too_few_classes_for_all_attacks_are_refused(arguments, coloured_folder, capsys):
    assert main([*arguments, "--datasets", str(coloured_folder), "--samples", "8"]) == 2
    assert "too few classes" in capsys.readouterr().err
