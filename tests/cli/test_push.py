"""`robust-clip push`: from a folder to the Hub and back in other processes, also killed in the middle."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from robust_clip.cli import main
from robust_clip.evaluation.tables import read_rows
from tests.hub.hub_double import HubDouble, learned_folder, trained_folder

REPO = "someone/nano"
ROWS = Path(__file__).parents[2] / "model_cards" / "rows" / "nano_clip"
# Stock transformers in a process that may not even see robust_clip.
LOAD = """
import sys
sys.modules["robust_clip"] = None
import torch
from transformers import AutoModelForZeroShotImageClassification, CLIPProcessor
repo, pixels, out = sys.argv[1:]
processor = CLIPProcessor.from_pretrained(repo)
model = AutoModelForZeroShotImageClassification.from_pretrained(repo).eval()
texts = processor(text=["red", "green"], return_tensors="pt", padding=True)
with torch.no_grad():
    torch.save(model(pixel_values=torch.load(pixels), **texts).logits_per_image, out)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubDouble]:
    with HubDouble(tmp_path / "hub").serving() as double:
        yield double


@pytest.fixture
def folder(tiny_model: Any, tiny_processor: Any, tmp_path: Path) -> Path:
    return trained_folder(tmp_path / "nano", tiny_model, tiny_processor)


def test_killed_in_the_middle_pushed_again_and_loaded_elsewhere(
    hub: HubDouble,
    folder: Path,
    tmp_path: Path,
    tiny_model: Any,
    tiny_processor: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [sys.executable, "-m", "robust_clip", "push", str(folder), REPO, "--licence", "mit"]
    environment = hub.environment(tmp_path / "home")
    hub.hold_after = 1
    killed = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert hub.held.wait(200)
    finally:
        killed.kill()
        killed.wait()
    assert set(hub.files(REPO)) == {".gitattributes"}
    arrived = list(hub.received)
    assert len(arrived) == 1

    hub.hold_after = None
    hub.stand_in(monkeypatch, tmp_path / "here")
    assert main(["push", str(folder), REPO, "--licence", "mit"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{hub.url}/{REPO}\n"
    assert "Left out: checkpoint-5, training_args.bin.\n" in printed.err
    assert hub.received[:1] == arrived
    assert len(hub.received) == len(set(hub.received)) == len(list(folder.glob("*.safetensors")))
    assert hub.files(REPO)["README.md"] == (folder / "README.md").read_bytes()

    pixels, out = tmp_path / "pixels.pt", tmp_path / "logits.pt"
    torch.save(torch.rand(2, 3, 16, 16), pixels)
    elsewhere = hub.environment(tmp_path / "empty")
    subprocess.run([sys.executable, "-c", LOAD, REPO, str(pixels), str(out)], env=elsewhere, timeout=250, check=True)
    texts = tiny_processor(text=["red", "green"], return_tensors="pt", padding=True)
    with torch.no_grad():
        here = tiny_model(pixel_values=torch.load(pixels), **texts).logits_per_image
    # The other process has as many threads as it likes, which changes the order of sums.
    torch.testing.assert_close(torch.load(out), here, rtol=0, atol=1e-5)


def test_other_files_stop_a_push_until_it_may_replace_them(
    hub: HubDouble, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.stand_in(monkeypatch, tmp_path / "home")
    (folder / "notes.txt").write_text("ours")
    assert main(["push", str(folder), REPO, "--private"]) == 0
    assert hub.repositories[REPO].private
    (folder / "notes.txt").unlink()
    assert main(["push", str(folder), REPO]) == 2
    assert "none of this model's: notes.txt. Give another repository, or --replace" in capsys.readouterr().err
    assert main(["push", str(folder), REPO, "--replace"]) == 0
    assert "notes.txt" not in hub.files(REPO)
    assert main(["push", str(folder), REPO, "--branch", "v2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.url}/{REPO}/tree/v2"


def test_rows_from_elsewhere_go_along(
    hub: HubDouble, folder: Path, tiny_checkpoint: Path, coloured_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    records = tmp_path / "rows"
    options = ["--model", str(folder), "--data", str(coloured_folder), "--protocol", "pgd20", "--samples", "6"]
    assert main(["evaluate", *options, "--records", str(records)]) == 0
    hub.stand_in(monkeypatch, tmp_path / "home")
    assert main(["push", str(folder), REPO, "--rows", str(records)]) == 0
    sent = hub.files(REPO)
    (row,) = (name for name in sent if name.endswith("row.json"))
    assert row.startswith("records/")
    assert sent[row.replace("row.json", "samples.parquet")].startswith(b"PAR1")
    assert b"| 6 | pgd20 v1" in sent["README.md"]


@pytest.mark.parametrize("kind", ["adapter", "prompts"])
def test_an_adapter_and_prompts_with_rows_under_the_users_own_name(
    kind: str, hub: HubDouble, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = learned_folder(kind, tmp_path / "nano", tiny_model)
    (row, *_) = read_rows(ROWS)
    (folder / "records").mkdir()
    replace(row, model={"id": "nano", "revision": "memory-sha256:1"}).write(folder / "records" / "row.json")
    hub.stand_in(monkeypatch, tmp_path / "home")
    assert main(["push", str(folder), "nano"]) == 0
    sent = hub.files(REPO)
    assert "records/row.json" in sent
    card = sent["README.md"].decode()
    assert f"| {row.dataset['name']} | {row.dataset['split']} |" in card
    assert f'"{REPO}"' in card
    assert '"nano"' not in card


def test_without_a_token_nothing_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("robust_clip.cli.push.get_token", lambda: None)
    assert main(["push", str(folder), REPO]) == 2
    told = "robust-clip push: No token to write to the Hub: log in by `hf auth login`, or set HF_TOKEN.\n"
    assert capsys.readouterr().err == told
    assert not (folder / "README.md").exists()


def test_a_hub_that_cannot_be_reached(
    hub: HubDouble, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.stand_in(monkeypatch, tmp_path / "home")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(folder), REPO]) == 2
    told = capsys.readouterr().err
    assert "did not go through (ConnectError" in told
    assert told.splitlines()[-1].endswith("what has arrived is not sent twice.")
