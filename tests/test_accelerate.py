"""The configurations of `recipes/accelerate` are ones that `accelerate launch` takes."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

CONFIGS = sorted((Path(__file__).parents[1] / "recipes/accelerate").glob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_key_is_known(file):
    config = load_config_from_file(str(file))
    launcher = vars(launch_command_parser().parse_args(["--config_file", str(file), "train.py"]))
    assert launcher.keys() >= {*config.fsdp_config, *config.deepspeed_config}


def test_there_is_one_for_each_kind_of_machine():
    assert {file.stem for file in CONFIGS} == {"cpu", "single_gpu", "multi_gpu", "deepspeed_zero2"}
