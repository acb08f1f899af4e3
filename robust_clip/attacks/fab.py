"""FAB, the fast adaptive boundary attack, as the package `pyautoattack` computes it."""

import contextlib
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from robust_clip.attacks.base import Attack, Problem
from robust_clip.attacks.counts import check_counts
from robust_clip.attacks.losses import AttackLoss, labels_of
from robust_clip.attacks.targets import first_fooled, rank_wrong_classes, side_by_side
from robust_clip.paper import Paper

PACKAGE_NORMS = {"linf": "Linf", "l2": "L2"}


@dataclass(frozen=True, kw_only=True)
class FAB(Attack):
    """FAB: steps onto the linearised decision boundary, drawn back towards the clean image.

    https://huggingface.co/papers/1907.02044, Algorithm 1, and its targeted form of
    https://huggingface.co/papers/2003.01690, Section 5, through the optional package `pyautoattack` (the extra
    `autoattack`). The geometry is the package's, with its constants; passes through the model, restarts and the
    choice of targets are done here, on the samples that stand.

    FAB has no epsilon of its own: it looks for the nearest image that fools. Here a sample leaves with the first
    image inside the ball that does. One that stands comes back as the image of highest loss among the clean one and
    the projections into ball and box of the nearest that fooled, which the authors' code does not try.

    The geometry is computed in float32. On a CPU no sample depends on the others; on a GPU, whose sums run in another
    order in a batch of another size, the last bits of an image may.

    Args:
        steps: Steps of one search.
        targets: How many wrong classes are aimed at, in the order of their logits on the clean image: one after the
            other, and several at once where too few samples stand to fill a batch; None for the untargeted form, whose
            every step takes the gradients of all classes.
        restarts: Searches for each target: the first from the clean image, the others from random points half an
            epsilon away.

    Raises:
        ValueError: If a count is not a positive integer.
    """

    paper: ClassVar[Paper] = Paper(
        title="Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack",
        arxiv_id="1907.02044",
        bibtex="""@inproceedings{croce2020minimally,
  title = {Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack},
  author = {Croce, Francesco and Hein, Matthias},
  booktitle = {International Conference on Machine Learning},
  year = {2020},
  eprint = {1907.02044},
  archivePrefix = {arXiv}
}""",
    )

    steps: int = 100
    targets: int | None = 9
    restarts: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, "steps", "restarts")
        if self.targets is not None:
            check_counts(self, "targets", otherwise=", or None for the untargeted form")

    @property
    def short_name(self) -> str:
        """`fab_t`, or `fab` for the untargeted form."""
        return "fab" if self.targets is None else "fab_t"

    @property
    def gradient_passes(self) -> int:
        """One for each step of each search; untargeted, as many times that as there are classes.

        Each step takes a forward pass besides, each search one more, and a sample that falls one more.
        """
        return self.steps * self.restarts * (self.targets or 1)

    def require_packages(self) -> None:
        """Refuse to begin without `pyautoattack`."""
        _package()

    def search(self, problem: Problem) -> Tensor:
        """Aim at target after target.

        Raises:
            ValueError: If the loss has no labels, or there are more targets than wrong classes.
            ImportError: If `pyautoattack` is not installed.
        """
        _package()
        labels = labels_of(problem.loss, "FAB")
        best = problem.pixels.clone()
        logits = problem.outputs(best)
        ranking = rank_wrong_classes(logits, labels)
        searches = 1 if self.targets is None else self.targets
        if searches >= logits.shape[1]:
            raise ValueError(
                f"FAB targets={self.targets} aims at too many wrong classes: of {logits.shape[1]} classes only "
                f"{logits.shape[1] - 1} are wrong; use fewer targets"
            )
        highest = problem.loss(logits)
        fallen = problem.confirm(best, logits.argmax(dim=1) != labels)
        rank, draws = 0, self.restarts > 1 or problem.eot_samples > 1
        while rank < searches:
            for restart in range(self.restarts):
                left = (~fallen).nonzero().flatten()
                if not len(left):
                    return best
                count = side_by_side(searches - rank, len(left), problem.batch_size, draws=draws)
                for rows in left.split(problem.batch_size or len(left)):
                    copies = rows.repeat(count)
                    classes = ranking[rows, rank : rank + count].T.reshape(-1, 1) if self.targets else ranking[rows]
                    found = _Search(problem[copies], labels[copies], classes).run(self.steps, random_start=restart > 0)
                    ends, losses, fooled = (each.unflatten(0, (count, -1)) for each in found)
                    chosen = first_fooled(fooled, losses.argmax(dim=0)), torch.arange(len(rows), device=rows.device)
                    better = fooled[chosen] | (losses[chosen] > highest[rows])
                    best[rows[better]], highest[rows[better]] = ends[chosen][better], losses[chosen][better]
                    fallen[rows] = fooled[chosen]
            rank += count
        return best


class _Search:
    """One search: what the package asks of a model, passed on for those samples that still stand.

    The package sees one row more than there are samples, which nothing is ever asked about: the sum over the only row
    of a batch may run in another order than over one of several.

    Args:
        problem: Of B samples, all classified rightly.
        labels: `(B,)`.
        classes: `(B, K)`, wrong classes whose boundaries are approached.
    """

    def __init__(self, problem: Problem, labels: Tensor, classes: Tensor) -> None:
        self.problem = self.active = problem
        self.labels, self.classes = labels, classes
        self.rows = torch.arange(len(labels), device=labels.device)  # those that still stand
        self.ends = problem.pixels.clone()
        self.losses = torch.full((len(labels),), -math.inf, device=labels.device)
        self.fooled = torch.zeros_like(labels, dtype=torch.bool)
        self.start: Tensor | None = None
        self.step = 0

    def run(self, steps: int, random_start: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Images `(B, 3, H, W)` in ball and box, their losses `(B,)` and whether they fool, `(B,)`."""
        if random_start:
            self.start = _random_start(self.problem)
        pixels, threat_model = self.problem.pixels, self.problem.threat_model
        package, norm = _package(), PACKAGE_NORMS[threat_model.norm]
        geometry = package.FABAttack(norm=norm, n_iter=steps, device=pixels.device)
        geometry._get_predicted_label = self.predict
        geometry.get_diff_logits_grads_batch = self.differences
        with contextlib.suppress(_AllFooled):
            padded = torch.cat([pixels, pixels[:1]])
            nearest = geometry.attack_single_run(padded, torch.cat([self.labels, self.labels[:1]]))[:-1]
            tried = threat_model.project(nearest.to(pixels)[self.rows], self.active.pixels)
            outputs = self.active.outputs(tried)
            self.ends[self.rows], self.losses[self.rows] = tried, self.active.loss(outputs)
            self.fooled[self.rows] = self.active.confirm(tried, outputs.argmax(dim=1) != self.labels[self.rows])
        return self.ends, self.losses, self.fooled

    def predict(self, images: Tensor) -> Tensor:
        """Predicted classes `(B + 1,)` of the iterates; samples that seem fooled inside the ball count as right.

        They leave if a second look confirms it.
        """
        predicted = torch.cat([self.labels, self.labels[:1]])
        if self.step == 0:  # the clean images, which are classified rightly
            return predicted
        tried = images[self.rows].to(self.ends)
        outputs = self.active.outputs(tried)
        predicted[self.rows] = outputs.argmax(dim=1)
        threat_model = self.problem.threat_model
        inside = threat_model.distance(tried, self.active.pixels) <= threat_model.epsilon
        seeming = inside & (predicted[self.rows] != self.labels[self.rows])
        won = self.active.confirm(tried, seeming)
        predicted[self.rows[seeming]] = self.labels[self.rows[seeming]]
        if won.any():
            winners = self.rows[won]
            self.ends[winners], self.losses[winners] = tried[won], self.active.loss(outputs)[won]
            self.fooled[winners] = True
            kept = (~won).nonzero().flatten()
            self.active, self.rows = self.active[kept], self.rows[kept]
        if not len(self.rows):
            raise _AllFooled
        return predicted

    def differences(self, images: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the classes minus that of the label, `(B + 1, K)`, and their gradients, `(B + 1, K, 3, H, W)`."""
        if self.step == 0 and self.start is not None:
            images[:-1] = self.start  # the package's own iterate: its random starts would be drawn for a whole batch
        labels, tried = self.labels[self.rows], images[self.rows].to(self.ends)
        values = images.new_zeros(len(images), self.classes.shape[1])
        gradients = images.new_zeros(*values.shape, *images.shape[1:])
        for place, classes in enumerate(self.classes[self.rows].unbind(dim=1)):
            aimed = replace(self.active, loss=_LogitDifference(labels, classes))
            gradient, _outputs, losses = aimed.gradient(tried, self.step)
            values[self.rows, place], gradients[self.rows, place] = losses, gradient.to(gradients)
        self.step += 1
        return values, gradients


class _AllFooled(Exception):  # noqa: N818 - it is no error
    """Ends the package's loop when nobody stands."""


@dataclass(frozen=True, eq=False)
class _LogitDifference(AttackLoss):
    """Logit of a class minus that of the label, both `(B,)`."""

    labels: Tensor
    classes: Tensor

    def __call__(self, outputs: Tensor) -> Tensor:
        """Difference of logits `(B, C)`, `(B,)`."""
        logits = outputs.float()
        reached, left = (logits.gather(1, index.unsqueeze(1)).squeeze(1) for index in (self.classes, self.labels))
        return reached - left


def _random_start(problem: Problem) -> Tensor:
    """Points of the box half an epsilon from the clean images, before clipping, `(B, 3, H, W)`."""
    shape, threat_model = problem.pixels.shape[1:], problem.threat_model
    draw = torch.rand if threat_model.norm == "linf" else torch.randn
    drawn = torch.stack([draw(shape, generator=generator) for generator in problem.generators]).to(problem.pixels)
    noise = 2 * drawn - 1 if threat_model.norm == "linf" else drawn
    length = threat_model.distance(noise, torch.zeros_like(noise)).view(-1, 1, 1, 1)
    return (problem.pixels + noise * (threat_model.epsilon / 2 / length)).clamp(0, 1)


def _package() -> Any:
    """The module of the geometry."""
    try:
        from pyautoattack import fab_base
    except ImportError as error:
        raise ImportError("FAB is computed by pyautoattack: pip install 'robust-clip[autoattack]'") from error
    return fab_base
