"""An evaluation that was interrupted goes on where it was; one that is finished is taken as it is."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from robust_clip.attacks import PGD, AttackRun
from robust_clip.evaluation import Protocol, RecordStore, Row, evaluate_robustness, gallery, get_protocol, store
from robust_clip.evaluation.cascade import Cascade
from robust_clip.threat_model import ThreatModel


def test_a_killed_run_is_gone_on_from(model, tokenizer, images, two_attacks, tmp_path, folder_of, whole, monkeypatch):
    def run(resume):
        return evaluate_robustness(
            model, tokenizer, images, two_attacks, batch_size=4, records_dir=tmp_path / "killed", resume=resume
        )

    append, feed, parts, fed = RecordStore.append, Cascade.feed, [], []

    def append_twice(store, samples, seconds):
        if len(parts) == 2:
            raise KeyboardInterrupt
        parts.append(samples)
        append(store, samples, seconds)

    def note(cascade, candidates):
        fed.extend(candidate.sample for candidate in candidates)
        return feed(cascade, candidates)

    with monkeypatch.context() as patched:
        patched.setattr(RecordStore, "append", append_twice)
        with pytest.raises(KeyboardInterrupt):
            run(resume=False)
    with pytest.raises(ValueError, match="holds an unfinished run"):
        run(resume=False)
    monkeypatch.setattr(Cascade, "feed", note)
    run(resume=True)
    assert folder_of(tmp_path / "killed") == whole
    known = {sample.index: sample for part in parts for sample in part}
    done = [index for index, sample in known.items() if sample.through(2)]
    assert sorted([sample.index for sample in fed] + done) == list(range(24))
    assert len(fed) < 24
    assert all(sample == known.get(sample.index, replace(sample, withstood=0)) for sample in fed)
    assert any(sample.withstood for sample in fed)


@pytest.mark.parametrize(("owner", "name"), [(store, "write_samples"), (gallery, "write_text")])
def test_a_disk_that_fills_up_costs_nothing_that_was_written(
    owner, name, model, tokenizer, images, two_attacks, tmp_path, folder_of, whole, monkeypatch
):
    def run(resume):
        how = {"batch_size": 4, "records_dir": tmp_path, "examples": 2, "resume": resume}
        return evaluate_robustness(model, tokenizer, images, two_attacks, **how)

    write, calls = getattr(owner, name), []

    def fill_up(*args):
        calls.append(args)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*args)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, fill_up)
        with pytest.raises(ValueError, match="No space left on device.*make room, then go on with --resume"):
            run(resume=False)
    assert any(tmp_path.rglob("part-*.parquet"))
    run(resume=True)
    assert folder_of(tmp_path) == whole


def test_a_finished_row_is_not_computed_again(model, tokenizer, images, tmp_path, monkeypatch, caplog):
    protocol = get_protocol("clean")
    first = evaluate_robustness(model, tokenizer, images, protocol, records_dir=tmp_path)
    monkeypatch.setattr(Cascade, "feed", None)
    again = evaluate_robustness(model, tokenizer, images, protocol, records_dir=tmp_path, resume=True)
    assert (again, again.seconds, again.finished) == (first, first.seconds, first.finished)
    assert "was measured by" not in caplog.text
    (kept,) = tmp_path.rglob("row.json")
    kept.write_text(kept.read_text().replace(f'"{first.versions["robust-clip"]}"', '"0.0.9"'))
    evaluate_robustness(model, tokenizer, images, protocol, records_dir=tmp_path, resume=True)
    assert "was measured by robust-clip 0.0.9, and this is " in caplog.text
    with pytest.raises(ValueError, match="holds a finished run"):
        evaluate_robustness(model, tokenizer, images, protocol, records_dir=tmp_path)


def test_records_are_of_one_model(model, tokenizer, images, tmp_path):
    evaluate_robustness(model, tokenizer, images, get_protocol("clean"), records_dir=tmp_path)
    with torch.no_grad():
        model.logit_scale += 1
    with pytest.raises(ValueError, match=r"model.revision is 'memory-sha256:\w+' there"):
        evaluate_robustness(model, tokenizer, images, get_protocol("clean"), records_dir=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("field", "value"), [("image_mean", [0.5] * 3), ("vision_config.hidden_act", "gelu")], ids=["mean", "activation"]
)
def test_records_are_of_one_way_to_run_the_weights(model, tokenizer, images, tmp_path, field, value):
    """The same file of weights gives other numbers under another configuration."""
    how = {"records_dir": tmp_path, "revision": "sha256:a"}
    evaluate_robustness(model, tokenizer, images, get_protocol("clean"), **how)
    tower, _, name = field.rpartition(".")
    setattr(getattr(model.config, tower) if tower else model.config, name, value)
    leaf = field.replace("_config", "")
    with pytest.raises(ValueError, match=rf"holds another evaluation: model.settings.{leaf} is .* there and .* here"):
        evaluate_robustness(model, tokenizer, images, get_protocol("clean"), **how, resume=True)


def test_a_finished_row_gets_the_battery_that_it_lacks(model, tokenizer, images, tmp_path, monkeypatch, folder_of):
    few = Protocol("few", 1, (AttackRun(PGD(steps=1, step_size="0.1/255")),), ThreatModel("linf", "24/255"))

    def run(folder, **how):
        return evaluate_robustness(model, tokenizer, images, few, records_dir=tmp_path / folder, **how)

    at_once = run("at_once", thorough=True)
    first = run("later")
    assert first.checks != at_once.checks
    later = run("later", thorough=True, resume=True)
    assert later == folder_of(tmp_path / "later")[0] == at_once
    assert (later.seconds, later.finished) == (first.seconds, first.finished)
    assert folder_of(tmp_path / "later")[1] == folder_of(tmp_path / "at_once")[1]
    monkeypatch.setattr("robust_clip.evaluation.evaluator.battery", None)  # nothing is run a second time
    assert run("later", thorough=True, resume=True) == run("at_once", thorough=True, resume=True) == at_once
    assert run("later", resume=True) == at_once


def test_a_suite_that_is_killed_at_random_moments_ends_in_the_same_rows(
    trained_checkpoint, faint_folder, tmp_path, tmp_path_factory
):
    """By SIGKILL, three times, after so many of its 36 batches and rows as a generator draws."""
    other = tmp_path_factory.mktemp("as_faint")
    shutil.copy(faint_folder / "test.parquet", other / "test.parquet")
    where = ["--model", str(trained_checkpoint), "--datasets", f"{faint_folder},{other}", "--resume"]
    radii = ["--batch_size", "4", "--samples", "20", "--epsilon", "1/255,2/255,4/255"]
    start = [sys.executable, "-m", "robust_clip", "evaluate", *where, "--protocol", "pgd20", *radii, "--records"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def outcome(folder):
        rows = [Row.read(path) for path in sorted(folder.rglob("row.json"))]
        return rows, [path.read_bytes() for path in sorted(folder.rglob("samples.parquet"))]

    def written(folder):
        finished = {row.parent for row in folder.rglob("row.json")}
        return 6 * len(finished) + sum(part.parents[1] not in finished for part in folder.rglob("part-*.parquet"))

    killed = tmp_path / "killed"
    for moment in sorted(random.Random(0).sample(range(1, 30), 3)):
        process = subprocess.Popen([*start, str(killed)], env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while written(killed) < moment and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert 0 < len(outcome(killed)[0]) < 6
    for folder in ("killed", "whole"):
        subprocess.run([*start, str(tmp_path / folder)], env=environment, stdout=subprocess.DEVNULL, check=True)
    assert len(outcome(tmp_path / "whole")[0]) == 6
    assert outcome(killed) == outcome(tmp_path / "whole")
