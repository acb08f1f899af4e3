"""Two processes and sudden death: neither may change what comes out."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

CPU = Path(__file__).parents[2] / "recipes" / "accelerate" / "cpu.yaml"


@pytest.fixture
def recipe(tmp_path: Path, tiny_checkpoint: Path, coloured_folder: Path) -> Path:
    content = {
        "model": str(tiny_checkpoint),
        "objective": "tecoa",
        "attack": {"name": "pgd", "steps": 2, "step_size": "1/255"},
        "threat_model": {"norm": "linf", "epsilon": "4/255"},
        "data": {"train": str(coloured_folder), "resolution": "model", "augmentation": {"flip": True}},
        "training": {
            "per_device_train_batch_size": 8,
            "max_steps": 8,
            "learning_rate": 0.01,
            "optim": "sgd",
            "report_to": "none",
            "save_steps": 2,
        },
        "evaluation": {"datasets": {"coloured": {"name": str(coloured_folder)}}, "epsilons": ["4/255"]},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def command(recipe: Path, folder: Path, *more: str, processes: int = 1) -> list[str]:
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["accelerate.commands.launch", "--config_file", str(CPU), "--num_processes", str(processes), "-m"]
    return [*launch, "robust_clip", "train", str(recipe), "--training.output_dir", str(folder), *more]


def train(recipe: Path, folder: Path, *more: str, processes: int = 1) -> dict[str, torch.Tensor]:
    done = subprocess.run(command(recipe, folder, *more, processes=processes), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "model.safetensors")


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max((first[name] - second[name]).abs().max().item() for name in first)


def samples(folder: Path) -> list[dict[str, object]]:
    import pyarrow.parquet as pq

    (table,) = folder.glob("records/robust/*/*/samples.parquet")
    return pq.read_table(table).to_pylist()


def test_two_processes_equal_one(recipe: Path, tmp_path: Path) -> None:
    one = train(recipe, tmp_path / "one")
    two = train(recipe, tmp_path / "two", "--training.per_device_train_batch_size", "4", processes=2)
    assert largest_difference(one, two) < 1e-6
    assert samples(tmp_path / "one") == samples(tmp_path / "two")


def test_two_processes_equal_one_where_class_prompts_learn(recipe: Path, tmp_path: Path) -> None:
    """Attack and loss share a pass of the text tower then, outside of what torch wraps."""
    options = ["--objective", "tima", "--adaptation", "{name: full, towers: [vision, text]}", "--evaluation", "null"]
    options += ["--training.max_steps", "3"]
    one = train(recipe, tmp_path / "one", *options)
    two = train(recipe, tmp_path / "two", *options, "--training.per_device_train_batch_size", "4", processes=2)
    assert largest_difference(one, two) < 1e-6


def test_killed_and_resumed_equals_uninterrupted(recipe: Path, tmp_path: Path) -> None:
    longer = ("--training.max_steps", "60", "--training.optim", "adamw_torch", "--training.save_steps", "5")
    whole = train(recipe, tmp_path / "whole", *longer)
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        command(recipe, folder, *longer), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "trainer_state.json").exists(), "the run ended before it could be killed"
    resumed = train(recipe, folder, *longer, "--resume")
    assert largest_difference(whole, resumed) == 0
    assert samples(tmp_path / "whole") == samples(folder)
    again = subprocess.run(command(recipe, folder, *longer, "--resume"), capture_output=True, text=True)
    assert again.returncode == 0
    assert "nothing is left to do" in again.stdout
