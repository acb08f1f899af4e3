"""`robust-clip evaluate`, in one process and without a network."""

import argparse
import json

import pytest

from robust_clip.cli import evaluate


@pytest.fixture
def command(trained_checkpoint, faint_folder):
    """Run the command on the trained model and the faint images: `command("--format", "json")`."""

    def run(*arguments):
        parser = argparse.ArgumentParser()
        evaluate.add_parser(parser.add_subparsers())
        where = ["--model", str(trained_checkpoint), "--datasets", str(faint_folder), "--samples", "3"]
        args = parser.parse_args(["evaluate", *where, "--protocol", "pgd20", *arguments])
        return args.run(args)

    return run


def test_a_table_with_a_row_for_each_epsilon(command, capsys):
    assert command("--epsilon", "1/255, 8/255") == 0
    title, _, header, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("trained_clip (sha256:")
    assert header.split("  ")[0] == "data set"
    assert ["linf 1/255" in lines[0], "linf 8/255" in lines[1]] == [True, True]
    assert "[" in lines[0]


def test_json_is_the_rows(command, capsys):
    command("--protocol", "clean", "--format", "json")
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["n"], row["robust_accuracy"], row["protocol"]["name"]) == (3, None, "clean")


def test_records_are_refused_before_any_work_and_resumed(command, capsys, tmp_path, monkeypatch):
    arguments = ["--records", str(tmp_path), "--format", "json", "--protocol", "clean"]
    command(*arguments)
    first = capsys.readouterr().out
    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "load_checkpoint", None)
        with pytest.raises(ValueError, match="clean-v1-random3 holds a finished run"):
            command(*arguments)
    command(*arguments, "--resume")
    assert capsys.readouterr().out == first


def test_what_presets_share_is_measured_once(command, capsys, tmp_path):
    command("--protocol", "pgd20,clean,pgd20", "--records", str(tmp_path), "--format", "json")
    assert [row["protocol"]["name"] for row in json.loads(capsys.readouterr().out)] == ["pgd20", "clean"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "pgd7"], "known: clean, pgd20, pgd100"),
        (["--epsilon", "4"], "did you mean 4/255"),
        (["--split", "validation"], "has no split 'validation'"),
        (["--datasets", "cifar11"], "No data set 'cifar11'"),
        (["--records", "/dev/null/records"], "cannot write to /dev/null/records"),
    ],
)
def test_mistakes_are_answered_before_the_model_is_loaded(command, arguments, message, monkeypatch):
    monkeypatch.setattr(evaluate, "load_checkpoint", None)
    with pytest.raises(ValueError, match=message):
        command(*arguments)
