"""What the processes of one evaluation do together."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

T = TypeVar("T")


def process_state() -> PartialState:
    """Which process this is, of how many, and its device, as `accelerate launch` set them up."""
    # PartialState takes a process on a CPU for the only one unless it is told of the CPU, and what the launcher says
    # of that, if anything, is read by Accelerator alone.
    launched_without_gpu = "LOCAL_RANK" in os.environ and not torch.accelerator.is_available()
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or launched_without_gpu)


def on_main(make: Callable[[], T]) -> T:
    """Let the main process make something and hand it, or the error, to all: none is left waiting for the others."""
    outcome: list[Any] = [None, None]
    if process_state().is_main_process:
        try:
            outcome[0] = make()
        except (OSError, ValueError) as error:
            outcome[1] = error
    made, failure = broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    result: T = made
    return result
