"""What the processes of one evaluation do together."""

import os
from collections.abc import Callable, Iterable
from typing import Any, Self, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env, tqdm

from .records import Sample

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


class Progress:
    """A bar over images, each of which advances with every attack it stands up to and at once when it falls.

    Args:
        images: That this process deals with.
        attacks: Of the protocol.
        title: Beside the bar.
    """

    def __init__(self, images: int, attacks: int, title: str) -> None:
        self._stages = max(1, attacks)
        self._advanced: dict[int, int] = {}
        self._done = 0
        self._attacks = attacks
        digits = 0 if self._stages == 1 else 1  # of an image that stood up to some of the attacks
        layout = f"{{l_bar}}{{bar}}| {{n:.{digits}f}}/{{total}} images [{{elapsed}}<{{remaining}}]"
        self._bar = tqdm(total=images, desc=title, bar_format=layout)

    def add(self, samples: Iterable[Sample]) -> None:
        """Advance by what became of some images."""
        for sample in samples:
            advanced = self._stages if sample.through(self._attacks) else sample.withstood
            self._done += advanced - self._advanced.get(sample.index, 0)
            self._advanced[sample.index] = advanced
        # Fractions would add up to more than all images.
        self._bar.update(self._done / self._stages - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
