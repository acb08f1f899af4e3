"""Projected gradient descent, the attack that most of robust learning trains and measures with."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robust_clip.attacks.base import Attack, Problem
from robust_clip.attacks.counts import check_counts
from robust_clip.attacks.restarts import best_of_restarts
from robust_clip.paper import Paper
from robust_clip.threat_model import ThreatModel, parse_size


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent: steps of steepest ascent, each projected back into the threat model.

    https://huggingface.co/papers/1706.06083, Section 2.1. The last iterate is returned.

    Args:
        steps: Gradient steps.
        step_size: Length of a step in pixel units, a number or text such as `"1/255"`. None means epsilon / 4
            (ours): the papers' own step, epsilon, jumps between the corners of the ball when there are many steps.
        random_start: Begin at a random point of the threat model instead of the clean image.
        restarts: Searches from fresh random starts. Of their ends each sample keeps the first that fools the loss,
            else the one of highest loss.
        stop_when_fooled: A sample whose iterate is misclassified is returned as it is and costs no further steps.

    Raises:
        ValueError: If a count is not a positive integer, the step size is not positive, or restarts are not random.
    """

    paper: ClassVar[Paper] = Paper(
        title="Towards Deep Learning Models Resistant to Adversarial Attacks",
        arxiv_id="1706.06083",
        bibtex="""@inproceedings{madry2018towards,
  title = {Towards Deep Learning Models Resistant to Adversarial Attacks},
  author = {Madry, Aleksander and Makelov, Aleksandar and Schmidt, Ludwig and Tsipras, Dimitris and Vladu, Adrian},
  booktitle = {International Conference on Learning Representations},
  year = {2018},
  eprint = {1706.06083},
  archivePrefix = {arXiv}
}""",
    )

    steps: int = 10
    step_size: float | str | None = None
    random_start: bool = True
    restarts: int = 1
    stop_when_fooled: bool = False

    def __post_init__(self) -> None:
        """Check the fields and read the step size."""
        check_counts(self, "steps", "restarts")
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"PGD restarts={self.restarts} without random_start repeats one search; set random_start")
        if self.step_size is not None:
            size = parse_size(self.step_size)
            if size == 0:
                raise ValueError("PGD step_size 0 never moves; give a positive size, or None for epsilon / 4")
            object.__setattr__(self, "step_size", size)

    @property
    def gradient_passes(self) -> int:
        """One for each step of each restart."""
        return self.steps * self.restarts

    def search(self, problem: Problem) -> Tensor:
        """Climb once, or `restarts` times keeping the best end of each sample."""
        size = self._step_size(problem.threat_model)
        if self.restarts == 1:
            return climb(problem, self.steps, size, self.random_start, self.stop_when_fooled)

        def once(attempt: Problem) -> tuple[Tensor, Tensor, Tensor | None]:
            end = climb(attempt, self.steps, size, self.random_start, self.stop_when_fooled)
            return end, *attempt.judge(end)

        return best_of_restarts(problem, self.restarts, once, self.stop_when_fooled)[0]

    def _step_size(self, threat_model: ThreatModel) -> float:
        """Length of a step under `threat_model`, in pixel units."""
        if self.step_size is None:
            return threat_model.epsilon / 4
        size = parse_size(self.step_size)
        if threat_model.norm == "linf" and size >= 1:
            raise ValueError(f"step_size must be below 1 for linf, got {size:g}: did you mean {size:g}/255?")
        return size


def climb(problem: Problem, steps: int, step_size: float, random_start: bool, stop_when_fooled: bool) -> Tensor:
    """One search of PGD from one start.

    Args:
        problem: Images and what to climb.
        steps: Gradient steps.
        step_size: Length of a step in pixel units.
        random_start: Begin at a random point of the threat model.
        stop_when_fooled: Leave a sample where it is first seen misclassified.

    Returns:
        `(B, 3, H, W)`: for each sample the last iterate, or the first that was seen to fool the loss.

    Raises:
        ValueError: If `stop_when_fooled` is set for a loss without labels.
    """
    adversarial = problem.start(random_start)
    active, kept = problem, torch.arange(len(adversarial), device=adversarial.device)
    for step in range(steps):
        iterate = adversarial[kept]
        gradient, outputs, _ = active.gradient(iterate, step)
        if stop_when_fooled:
            fooled = active.loss.fooled(outputs)
            if fooled is None:
                raise ValueError(f"stop_when_fooled needs a loss with labels, got {type(active.loss).__name__}")
            standing = (~active.confirm(iterate, fooled)).nonzero().flatten()
            active, kept, iterate, gradient = active[standing], kept[standing], iterate[standing], gradient[standing]
            if not len(kept):
                break
        moved = iterate + problem.threat_model.step(gradient, step_size)
        adversarial[kept] = problem.threat_model.project(moved, active.pixels)
    return adversarial
