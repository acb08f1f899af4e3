"""Attacks that know of a defence: they climb the objective's own loss, and are judged by the predictions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from robust_clip.attacks import APGD, FGSM, PGD, AttackLoss, AttackRun, Forward, InnerProblem

from .protocol import Protocol

# Makes, of class names and templates, what an attack sees and climbs that is adapted to an objective.
InnerProblemMaker = Callable[[Sequence[str], Sequence[str]], InnerProblem]


class JudgedForward(nn.Module):
    """Logits without a gradient beside whatever else is climbed, so that a search sees who is fooled.

    It costs one forward pass of the classifier more for each pass.

    Args:
        classify: Logits `(B, C)` of pixels.
        forward: Differentiable outputs `(B, ...)` of pixels.
    """

    def __init__(self, classify: Forward, forward: Forward) -> None:
        super().__init__()
        self.classify, self.climbed = classify, forward
        self.shape = torch.Size()

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits and flattened outputs side by side, `(B, C + ...)`."""
        outputs = self.climbed(pixels)
        self.shape = outputs.shape[1:]
        with torch.no_grad():
            logits = self.classify(pixels)
        return torch.cat([logits, outputs.reshape(len(outputs), -1)], dim=1)


@dataclass(frozen=True, eq=False)
class JudgedLoss(AttackLoss):
    """Any loss, with labels that tell who is fooled; it takes the outputs of a `JudgedForward`.

    A sample that is fooled leaves the search, as it does for the losses on logits: without that, a search would return
    the image of the highest loss, although one that it met on its way fools the model.

    Args:
        loss: What is climbed.
        labels: `(B,)`, true classes.
        n_classes: C, how many of the outputs are logits.
        forward: Knows the shape of what `loss` takes.
    """

    loss: AttackLoss
    labels: Tensor
    n_classes: int
    forward: JudgedForward

    def __call__(self, outputs: Tensor) -> Tensor:
        """The loss of each sample, `(B,)`."""
        return self.loss(outputs[:, self.n_classes :].reshape(len(outputs), *self.forward.shape))

    def __getitem__(self, kept: Tensor) -> Self:
        """The same loss for the samples `kept`."""
        return replace(self, loss=self.loss[kept], labels=self.labels[kept])

    def fooled(self, outputs: Tensor) -> Tensor:
        """Whether each sample is misclassified, `(B,)`."""
        return outputs[:, : self.n_classes].argmax(dim=1) != self.labels


def judged(inner_problem: InnerProblem, classify: Forward, n_classes: int) -> InnerProblem:
    """What `inner_problem` gives, with the verdict of `classify`, which tells `n_classes` apart."""

    def problem(pixels: Tensor, labels: Tensor) -> tuple[Forward, AttackLoss]:
        climbed, loss = inner_problem(pixels, labels)
        forward = JudgedForward(classify, climbed)
        return forward, JudgedLoss(loss, labels, n_classes, forward)

    return problem


def climb_objective(protocol: Protocol, name: str, description: str) -> Protocol:
    """The protocol with every attack that can climb any loss adapted to an objective.

    These are PGD, FGSM and untargeted APGD. Targeted APGD, FAB, Carlini and Wagner's attack and Square have losses of
    their own and stay as they are, as the names of the row's attacks say. Two attacks that become one are run once.

    Args:
        protocol: Whose attacks are adapted.
        name: Of the objective, which becomes part of the protocol's.
        description: Of the objective, its parameters and its teacher, for the row.

    Returns:
        The adapted protocol, or `protocol` itself if none of its attacks can be adapted.
    """
    runs = dict.fromkeys(replace(run, loss="objective") if _climbs_anything(run) else run for run in protocol.attacks)
    if not any(run.loss == "objective" for run in runs):
        return protocol
    return replace(
        protocol,
        name=f"{protocol.name}_objective_{name}",
        attacks=tuple(runs),
        objective=description,
        source=f"{protocol.source}; its attacks climb the objective's loss instead of their own (ours)",
    )


def _climbs_anything(run: AttackRun) -> bool:
    attack: Any = run.attack
    return isinstance(attack, PGD | FGSM | APGD) and getattr(attack, "targets", None) is None
