"""Carlini and Wagner's l2 attack: the smallest change that is misclassified."""

import math
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from robust_clip.attacks.base import Attack, Problem
from robust_clip.attacks.counts import check_counts
from robust_clip.attacks.losses import Margin, labels_of
from robust_clip.paper import Paper
from robust_clip.threat_model import Norm

DECAY, SQUARE_DECAY, ADAM_EPSILON = 0.9, 0.999, 1e-8  # Adam's own defaults, as the authors left them
LARGEST = 1e10  # weight c, beyond which the search does not go
INSIDE = 1 - 1e-6  # the clean image is drawn in by this factor, where the inverse of tanh is finite


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(Attack):
    """Carlini and Wagner's l2 attack: Adam on a change of variable, and a search for the weight of the loss.

    https://huggingface.co/papers/1608.04644, Section VI-A. With `image = (tanh(w) + 1) / 2`, each run minimises
    `|image - clean|^2 + c f(image)` over `w`, where `f = max(z_y - max_{j != y} z_j, -confidence)` is f_6 in its
    untargeted form; `c` is ten times larger after each run that fails, and bisected once one has succeeded.

    The attack has no epsilon of its own: it looks for the nearest image that fools. Here a sample is broken if such
    an image lies inside the ball, and leaves with the first. One that stands comes back as the image of highest loss
    among the clean one and, for each run, the projection into ball and box of the nearest image that fooled, or of
    the last.

    This is not what papers on robust CLIP call CW, which is `PGD` with the margin loss under linf.

    Differs from the authors' code: runs are never cut short, and are of 1,000 steps (theirs of 10,000).

    Args:
        steps: Steps of Adam in each run.
        binary_search_steps: Runs, each with another `c` for each sample.
        initial_const: First `c`, for pixels in [0, 1].
        learning_rate: Of Adam, in units of `w`.
        confidence: Margin in logits that a run has to reach to count as a success.

    Raises:
        ValueError: If a count is not a positive integer, or a size is not positive (`confidence`: negative).
    """

    paper: ClassVar[Paper] = Paper(
        title="Towards Evaluating the Robustness of Neural Networks",
        arxiv_id="1608.04644",
        bibtex="""@inproceedings{carlini2017towards,
  title = {Towards Evaluating the Robustness of Neural Networks},
  author = {Carlini, Nicholas and Wagner, David},
  booktitle = {IEEE Symposium on Security and Privacy},
  year = {2017},
  eprint = {1608.04644},
  archivePrefix = {arXiv}
}""",
    )

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    steps: int = 1000
    binary_search_steps: int = 9
    initial_const: float = 1e-3
    learning_rate: float = 0.01
    confidence: float = 0.0

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, "steps", "binary_search_steps")
        for name in ("initial_const", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"CarliniWagner {name} must be a positive number, got {getattr(self, name)!r}")
        if not 0 <= self.confidence < math.inf:
            raise ValueError(f"CarliniWagner confidence must be a number >= 0, got {self.confidence!r}")

    @property
    def short_name(self) -> str:
        """`carlini_wagner`."""
        return "carlini_wagner"

    @property
    def gradient_passes(self) -> int:
        """One for each step of each run."""
        return self.steps * self.binary_search_steps

    def search(self, problem: Problem) -> Tensor:
        """Run Adam again and again, with a `c` of its own for each sample that stands.

        Raises:
            ValueError: If the norm is not l2, or the loss has no labels.
        """
        if problem.threat_model.norm != "l2":
            raise ValueError(
                f"CarliniWagner looks for the smallest l2 change, got {problem.threat_model}; for linf use PGD with "
                "the margin loss, which papers on robust CLIP call CW"
            )
        margin = Margin(labels_of(problem.loss, "CarliniWagner"), self.confidence)
        best = problem.pixels.clone()
        outputs = problem.outputs(best)
        highest, left = problem.loss(outputs), (~problem.confirm(best, margin.fooled(outputs))).nonzero().flatten()
        const = torch.full_like(highest, self.initial_const)
        low, high = torch.zeros_like(const), torch.full_like(const, math.inf)
        for _ in range(self.binary_search_steps):
            if not len(left):
                break
            attempt = problem[left]
            ends, reached = self._minimise(replace(attempt, loss=margin[left]), const[left])
            outputs = attempt.outputs(ends)
            losses, fooled = attempt.loss(outputs), attempt.confirm(ends, margin[left].fooled(outputs))
            better = fooled | (losses > highest[left])
            best[left[better]], highest[left[better]] = ends[better], losses[better]
            low[left[~reached]], high[left[reached]] = const[left[~reached]], const[left[reached]]
            const = torch.where(high < math.inf, (low + high) / 2, 10 * const).clamp_max(LARGEST)
            left = left[~fooled]
        return best

    def _minimise(self, problem: Problem, const: Tensor) -> tuple[Tensor, Tensor]:
        """One run of Adam from the clean images, for a problem whose loss is the margin.

        Args:
            problem: Of B samples.
            const: `(B,)`, the weight c of f.

        Returns:
            Images `(B, 3, H, W)` in ball and box, and whether each sample was misclassified with the wanted
            confidence at any distance, `(B,)`.
        """
        threat_model = problem.threat_model
        descent = _Descent.at_start(problem, const)
        ends, nearest = problem.pixels.clone(), problem.pixels.new_full((len(const),), math.inf)
        reached = torch.zeros_like(const, dtype=torch.bool)
        for step in range(self.steps):
            rows, images = descent.rows, descent.images()
            gradient, outputs, losses = descent.problem.gradient(images, step)
            distance = threat_model.distance(images, descent.problem.pixels)
            fooled, outside = outputs.argmax(dim=1) != descent.labels, distance > threat_model.epsilon
            won = descent.problem.confirm(images, fooled & ~outside)
            fooled = won | (fooled & outside)
            nearer = fooled & (distance < nearest[rows])
            ends[rows[nearer]], nearest[rows[nearer]] = images[nearer], distance[nearer]
            reached[rows] |= fooled & (losses >= 0)
            standing = (~won).nonzero().flatten()
            if len(standing) < len(rows):
                descent, gradient = descent[standing], gradient[standing]
            if not len(standing):
                break
            descent.step(gradient, self.learning_rate, step)
        never = nearest[descent.rows].isinf()
        ends[descent.rows[never]] = descent.images()[never]
        inside = (nearest <= threat_model.epsilon).view(-1, 1, 1, 1)
        # What fooled inside the ball stays as it is to the last bit: it may stand right behind the boundary.
        ends = torch.where(inside, ends, threat_model.project(ends, problem.pixels))
        return ends, reached


@dataclass
class _Descent:
    """Adam's state for the samples that still stand; all fields are indexed together."""

    problem: Problem
    labels: Tensor  # (B,)
    rows: Tensor  # (B,), of the batch that the run began with
    const: Tensor  # (B, 1, 1, 1)
    point: Tensor  # (B, 3, H, W), w
    mean: Tensor
    mean_square: Tensor

    @classmethod
    def at_start(cls, problem: Problem, const: Tensor) -> Self:
        """All samples at their clean images."""
        # Sample by sample: the last elements of a tensor go through another atanh than the rest, on some processors.
        point = torch.stack([((2 * image - 1) * INSIDE).atanh() for image in problem.pixels])
        return cls(
            problem=problem,
            labels=labels_of(problem.loss, "CarliniWagner"),
            rows=torch.arange(len(point), device=point.device),
            const=const.to(point).view(-1, 1, 1, 1),
            point=point,
            mean=torch.zeros_like(point),
            mean_square=torch.zeros_like(point),
        )

    def __getitem__(self, kept: Tensor) -> Self:
        """Only the samples at the positions `kept`, a long tensor."""
        return type(self)(*(getattr(self, field.name)[kept] for field in fields(self)))

    def images(self) -> Tensor:
        """The images that the points stand for, `(B, 3, H, W)`."""
        return (self.point.tanh() + 1) / 2

    def step(self, margin_gradient: Tensor, learning_rate: float, step: int) -> None:
        """Step numbered `step` from 0, given the gradient of the climbed margin with respect to the images."""
        squashed = self.point.tanh()
        to_images = (squashed + 1) - 2 * self.problem.pixels - self.const * margin_gradient
        gradient = to_images * (1 - squashed.square()) / 2
        self.mean = DECAY * self.mean + (1 - DECAY) * gradient
        self.mean_square = SQUARE_DECAY * self.mean_square + (1 - SQUARE_DECAY) * gradient.square()
        mean = self.mean / (1 - DECAY ** (step + 1))
        scale = (self.mean_square / (1 - SQUARE_DECAY ** (step + 1))).sqrt() + ADAM_EPSILON
        self.point = self.point - learning_rate * mean / scale
