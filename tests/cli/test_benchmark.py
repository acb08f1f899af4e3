"""The cost of a training step: what is counted, printed, kept and rendered."""

import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from robust_clip.cli import main, training_step
from robust_clip.models.scratch import build_clip


@pytest.fixture
def memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is started to measure it."""
    monkeypatch.setattr(training_step, "_memory", lambda *_: training_step.Memory(2.0, 12345, 2_500_000))


@pytest.mark.usefixtures("memory_at_once")
def test_benchmark_prints_ratio_and_floor(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", str(tiny_checkpoint), "--classes", "3", "--batch_size", "4", "--repeats", "1"]
    assert main(["benchmark", *options]) == 0
    printed = capsys.readouterr().out
    assert "floor                2.333" in printed
    assert "peak memory" in printed


@pytest.mark.usefixtures("memory_at_once")
def test_figures_are_kept_and_rendered(tiny_checkpoint: Path, tmp_path: Path, capsys) -> None:
    small = ["--model", str(tiny_checkpoint), "--classes", "3", "--batch_size", "4", "--repeats", "1"]
    for objective in ("tecoa", "clean"):
        assert main(["benchmark", *small, "--objective", objective, "--out", str(tmp_path / f"{objective}.json")]) == 0
    capsys.readouterr()
    assert main(["benchmark", "--render", str(tmp_path)]) == 0
    title, _, _, _, clean, tecoa = capsys.readouterr().out.splitlines()
    assert title.startswith(f"**{tiny_checkpoint.name}, 3 classes, batch 4, fp32, ")
    assert clean.startswith("| clean | the objective's towers | no attack on images | ")
    assert tecoa.startswith("| tecoa | the objective's towers | pgd with 2 step(s) | ")
    assert tecoa.endswith(" | 2 | 1.00 | 12,345 | 2.50 |")


@pytest.mark.parametrize("command", ["benchmark", "compare"])
def test_what_cannot_be_rendered_is_refused(command: str, tmp_path: Path, capsys) -> None:
    assert main([command, "--render", str(tmp_path)]) == 2
    assert "has no JSON files" in capsys.readouterr().err
    (tmp_path / "a.json").write_text("{}")
    assert main([command, "--render", str(tmp_path)]) == 2
    assert f"was not written by robust-clip {command} --out" in capsys.readouterr().err


def test_a_page_takes_the_table_of_a_rendering(tmp_path: Path, capsys) -> None:
    assert main(["benchmark", "--into", str(tmp_path / "x.md")]) == 2
    assert "--into takes the table of --render" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "described"),
    [
        (["--attack", "fgsm"], "tecoa, fgsm, on "),
        (["--objective", "clean"], "clean, no attack on images, on "),
        (["--attack", "pgd", "--steps", "1"], "tecoa, pgd with 1 step(s), on "),
        (["--objective", "leaf", "--text_attack", "leaf"], "leaf, no attack on images, on "),
    ],
)
@pytest.mark.usefixtures("memory_at_once")
def test_benchmark_says_what_it_measured(
    options: list[str], described: str, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--model", str(tiny_checkpoint), "--classes", "3", "--batch_size", "2", "--repeats", "1"]
    assert main(["benchmark", *small, *options]) == 0
    assert capsys.readouterr().out.startswith(described)


def test_the_peak_is_that_of_the_step_and_not_of_who_asks(tiny_checkpoint: Path) -> None:
    held = torch.ones(3 * 2**28)  # 3 GiB
    args = Namespace(model=str(tiny_checkpoint), classes=3, batch_size=2, epsilon="1/255", attack="pgd", steps=1)
    args.adaptation, args.bf16, args.text_attack = None, False, "leaf"
    memory = training_step._memory(args, "clean")
    assert 100 < memory.peak_mib < held.nbytes / 2**20
    assert memory.saved_bytes > 4 * memory.learning > 0


@pytest.mark.usefixtures("memory_at_once")
def test_benchmark_counts_attacks_on_texts_apart(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--model", str(tiny_checkpoint), "--classes", "3", "--batch_size", "4", "--repeats", "1"]
    assert main(["benchmark", *small, "--objective", "mmcoa", "--text_attack", "leaf"]) == 0
    assert "attack on texts" in capsys.readouterr().out


def test_benchmark_of_an_adapter(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A and B of rank 2 beside q, k, v and out (16 to 16) and fc1 and fc2 (16 to 32 and back) of two blocks."""
    small = ["--model", str(tiny_checkpoint), "--classes", "3", "--batch_size", "4", "--repeats", "1"]
    assert main(["benchmark", *small, "--adaptation", "{name: lora, r: 2}"]) == 0
    printed = capsys.readouterr().out
    added = 2 * 2 * (4 * (16 + 16) + 2 * (16 + 32))
    blocks = 2 * (4 * (16 + 1) * 16 + (16 + 1) * 32 + (32 + 1) * 16 + 4 * 16)
    assert f"floor                {2 + added / (added + blocks) / 3:.3f}" in printed
    assert re.search(r"peak memory +\d{3} MiB", printed)
    assert f"weights that learn {added:,}" in printed


def test_benchmark_sizes_are_the_published_ones() -> None:
    """Parameters of the towers as published: 151 and 428 millions, of which 25 and 38 are the word embeddings."""
    for name, millions in (("vit_b32", 151.3), ("vit_l14", 427.6)):
        with torch.device("meta"):
            model, _ = build_clip(["a"], **training_step.SIZES[name])
        assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
