"""APGD: projected gradient descent that finds its own step size, the core of AutoAttack."""

from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import pairwise
from typing import ClassVar, Self

import torch
from torch import Tensor

from robust_clip.attacks.base import Attack, Problem
from robust_clip.attacks.counts import check_counts
from robust_clip.attacks.losses import labels_of
from robust_clip.attacks.restarts import best_of_restarts
from robust_clip.attacks.targets import first_fooled, rank_wrong_classes, side_by_side
from robust_clip.paper import Paper

_MOMENTUM = 0.75  # weight of the new direction; the rest is the step before


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Auto-PGD: ascent with momentum whose step halves, from the best point so far, when it stops making progress.

    https://huggingface.co/papers/2003.01690, Algorithm 1, with AutoAttack's constants: the first step is of 2 epsilon,
    and the step may halve at `checkpoints`. A sample leaves the search with the first iterate that fools the loss, and
    does so again at a second look; one that stands to the end is returned as the iterate of highest loss.

    The targeted form drives each sample to one after the other of the most likely wrong classes of its clean image,
    and to several at once where too few samples stand to fill a batch. Finding these classes costs one forward pass,
    and a sample that is misclassified there is returned as it is.

    Differs from the authors' code: a start is drawn from the whole ball, for linf uniformly (theirs is stretched until
    one pixel is epsilon away) and for l2 with a uniform radius (theirs is on the sphere); the l2 projection is the
    nearest point of ball and box together; the loss after the first step is compared with that of the start (theirs
    with 0); and a sample that is fooled is not searched on.

    Args:
        steps: Gradient steps of one search.
        restarts: Searches from fresh random starts, each on the samples that still stand.
        targets: How many wrong classes are aimed at, 9 in AutoAttack; None for the untargeted form.
        rho: A step size is halved if the loss rose in no more than this share of the steps since the last checkpoint.

    Raises:
        ValueError: If a count is not a positive integer, or rho is not strictly between 0 and 1.
    """

    paper: ClassVar[Paper] = Paper(
        title="Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks",
        arxiv_id="2003.01690",
        bibtex="""@inproceedings{croce2020reliable,
  title = {Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks},
  author = {Croce, Francesco and Hein, Matthias},
  booktitle = {International Conference on Machine Learning},
  year = {2020},
  eprint = {2003.01690},
  archivePrefix = {arXiv}
}""",
    )

    steps: int = 100
    restarts: int = 1
    targets: int | None = None
    rho: float = 0.75

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, "steps", "restarts")
        if self.targets is not None:
            check_counts(self, "targets", otherwise=", or None for the untargeted form")
        if isinstance(self.rho, bool) or not isinstance(self.rho, int | float) or not 0 < self.rho < 1:
            raise ValueError(f"APGD rho is a share of steps, strictly between 0 and 1 (0.75), got {self.rho!r}")

    @property
    def short_name(self) -> str:
        """`apgd`, or `apgd_t` for the targeted form."""
        return "apgd" if self.targets is None else "apgd_t"

    @property
    def gradient_passes(self) -> int:
        """One at the start and one for each step, of each restart towards each target."""
        return (self.steps + 1) * self.restarts * (self.targets or 1)

    def search(self, problem: Problem) -> Tensor:
        """Climb from `restarts` starts, towards one target after another in the targeted form.

        Raises:
            ValueError: If the targeted form is run on a loss without one, or with more targets than wrong classes.
        """
        if self.targets is None:
            return self._climb_from_starts(problem)[0]
        adversarial = problem.pixels.clone()
        ranking, fooled = self._rank_classes(problem)
        left = (~fooled).nonzero().flatten()
        target, draws = 0, self.restarts > 1 or problem.eot_samples > 1
        while target < self.targets and len(left):
            count = side_by_side(self.targets - target, len(left), problem.batch_size, draws=draws)
            attempt = problem[left.repeat(count)]
            aims = ranking[left, target : target + count].T.flatten()
            ends, fooled = self._climb_from_starts(replace(attempt, loss=attempt.loss.towards(aims)))
            ends, fooled = ends.unflatten(0, (count, -1)), fooled.view(count, -1)
            adversarial[left] = ends[first_fooled(fooled, count - 1), torch.arange(len(left), device=left.device)]
            left = left[~fooled.any(dim=0)]
            target += count
        return adversarial

    def _climb_from_starts(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """The end of each sample of `problem`, `(B, 3, H, W)`, and whether it fools, `(B,)`."""
        return best_of_restarts(problem, self.restarts, partial(_climb, steps=self.steps, rho=self.rho))

    def _rank_classes(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Wrong classes of each clean image, `(B, C - 1)`, most likely first, and whether it is misclassified."""
        outputs = problem.outputs(problem.pixels)
        fooled = problem.loss.fooled(outputs)
        if fooled is None:
            raise ValueError(f"APGD targets need a loss with labels, got {type(problem.loss).__name__}")
        wrong = outputs.shape[1] - 1
        if self.targets and self.targets > wrong:
            raise ValueError(
                f"APGD targets={self.targets} aims at too many wrong classes: of {wrong + 1} classes only {wrong} "
                "are wrong; use fewer targets, or None for the untargeted form"
            )
        ranking = rank_wrong_classes(outputs, labels_of(problem.loss, "APGD"))
        return ranking, problem.confirm(problem.pixels, fooled)


def checkpoints(steps: int) -> list[int]:
    """Steps after which the step size may be halved, in whole steps as the authors' code rounds them.

    The first comes after 22 % of the steps; from one to the next it takes 3 % fewer, down to 6 %.

    Args:
        steps: Gradient steps of the search.

    Returns:
        Ascending, counted from 1.

    Example:
        >>> checkpoints(100)
        [22, 41, 57, 70, 80, 87, 93, 99]
    """
    period, shrink, least = (max(percent * steps // 100, 1) for percent in (22, 3, 6))
    after, marks = period, []
    while after <= steps:
        marks.append(after)
        period = max(period - shrink, least)
        after += period
    return marks


@dataclass
class _Climbers:
    """The samples that still stand, and what Algorithm 1 remembers of each; all fields are indexed together."""

    problem: Problem
    rows: Tensor  # (B,), of the batch that the search began with
    iterate: Tensor  # (B, 3, H, W)
    previous: Tensor
    gradient: Tensor
    losses: Tensor  # (B,)
    best: Tensor
    best_gradient: Tensor
    best_losses: Tensor
    sizes: Tensor  # (B, 1, 1, 1)
    rises: Tensor  # (B,), steps since the last checkpoint that raised the loss
    checked_losses: Tensor  # (B,), the best ones at the last checkpoint
    halved: Tensor  # (B,), at the last checkpoint

    @classmethod
    def at_start(cls, problem: Problem) -> tuple[Self, Tensor]:
        """All samples at random points of the threat model, and the outputs there."""
        start = problem.start(random=True)
        gradient, outputs, losses = problem.gradient(start, 0)
        climbers = cls(
            problem=problem,
            rows=torch.arange(len(start), device=start.device),
            iterate=start,
            previous=start,
            gradient=gradient,
            losses=losses,
            best=start,
            best_gradient=gradient,
            best_losses=losses,
            sizes=torch.full_like(start[:, :1, :1, :1], 2 * problem.threat_model.epsilon),
            rises=torch.zeros_like(losses),
            checked_losses=losses,
            halved=torch.ones_like(losses, dtype=torch.bool),
        )
        return climbers, outputs

    def __getitem__(self, kept: Tensor) -> Self:
        """Only the samples at the positions `kept`, a long tensor."""
        return type(self)(*(getattr(self, field.name)[kept] for field in fields(self)))

    def move(self, step: int) -> Tensor:
        """Take the step numbered `step` from 1, and give the outputs of the new iterates."""
        threat_model, pixels = self.problem.threat_model, self.problem.pixels
        share = _MOMENTUM if step > 1 else 1.0
        ahead = threat_model.project(self.iterate + self.sizes * threat_model.step(self.gradient, 1.0), pixels)
        moved = self.iterate + share * (ahead - self.iterate) + (1 - share) * (self.iterate - self.previous)
        self.previous, self.iterate = self.iterate, threat_model.project(moved, pixels)
        self.gradient, outputs, losses = self.problem.gradient(self.iterate, step)
        self.rises = self.rises + (losses > self.losses)
        self.losses = losses
        return outputs

    def remember_best(self) -> None:
        """Keep the iterates that are the highest so far, with their gradients."""
        better = self.losses > self.best_losses
        self.best_losses = torch.where(better, self.losses, self.best_losses)
        self.best = torch.where(_of_images(better), self.iterate, self.best)
        self.best_gradient = torch.where(_of_images(better), self.gradient, self.best_gradient)

    def check(self, period: int, rho: float) -> None:
        """At a checkpoint, `period` steps after the last: halve where progress stopped, and go on from the best."""
        stuck = ~self.halved & (self.best_losses <= self.checked_losses)
        self.halved = (self.rises <= rho * period) | stuck
        halved = _of_images(self.halved)
        self.sizes = torch.where(halved, self.sizes / 2, self.sizes)
        # Neither `previous` nor `losses` goes back: as in the authors' code, momentum and the count of rises see the
        # step that was undone.
        self.iterate = torch.where(halved, self.best, self.iterate)
        self.gradient = torch.where(halved, self.best_gradient, self.gradient)
        self.checked_losses, self.rises = self.best_losses, torch.zeros_like(self.rises)


def _climb(problem: Problem, steps: int, rho: float) -> tuple[Tensor, Tensor, Tensor]:
    """One search from one random start.

    Returns:
        Images `(B, 3, H, W)`, the first iterates that fool the loss or else those of highest loss; the losses `(B,)`
        of those that stand; and which samples are fooled, `(B,)`.
    """
    periods = {mark: mark - last for last, mark in pairwise([0, *checkpoints(steps)])}
    climbers, outputs = _Climbers.at_start(problem)
    ends, losses = climbers.iterate.clone(), climbers.losses.clone()
    fooled = torch.zeros_like(losses, dtype=torch.bool)
    for step in range(steps + 1):
        if step:
            outputs = climbers.move(step)
        verdict = climbers.problem.loss.fooled(outputs)
        if verdict is not None and (verdict := climbers.problem.confirm(climbers.iterate, verdict)).any():
            ends[climbers.rows[verdict]] = climbers.iterate[verdict]
            fooled[climbers.rows[verdict]] = True
            climbers = climbers[(~verdict).nonzero().flatten()]
        if not len(climbers.rows):
            return ends, losses, fooled
        climbers.remember_best()
        if step in periods:
            climbers.check(periods[step], rho)
    ends[climbers.rows], losses[climbers.rows] = climbers.best, climbers.best_losses
    return ends, losses, fooled


def _of_images(mask: Tensor) -> Tensor:
    """`(B,)` as `(B, 1, 1, 1)`."""
    return mask.reshape(-1, 1, 1, 1)
