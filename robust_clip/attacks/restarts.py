"""A search begun anew several times, whose best end counts."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robust_clip.attacks.base import Problem

Search = Callable[[Problem], tuple[Tensor, Tensor, Tensor | None]]


def best_of_restarts(
    problem: Problem, restarts: int, search: Search, stop_when_fooled: bool = True
) -> tuple[Tensor, Tensor]:
    """The end that fools, or else that of highest loss, of each sample.

    Args:
        problem: Of B samples.
        restarts: How often the search is run, on what the runs before left standing.
        search: Gives images `(B, 3, H, W)`, their losses `(B,)` and whether they fool, `(B,)` or None for want of
            labels.
        stop_when_fooled: Whether a sample leaves with the first end that fools.

    Returns:
        Images `(B, 3, H, W)` and whether they fool, `(B,)`: nobody is said to for want of labels.
    """
    best = problem.pixels.clone()
    highest = torch.full((len(best),), -math.inf, device=best.device)
    left = torch.arange(len(best), device=best.device)
    for _ in range(restarts):
        ends, losses, fooled = search(problem[left])
        score = losses if fooled is None else losses.masked_fill(fooled, math.inf)
        better = score > highest[left]
        best[left[better]], highest[left[better]] = ends[better], score[better]
        if stop_when_fooled and fooled is not None:
            left = left[~fooled]
        if not len(left):
            break
    return best, highest == math.inf
