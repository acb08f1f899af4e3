"""AutoAttack: a fixed ensemble, each attack on the samples that stood up to those before it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor

from robust_clip.attacks.apgd import APGD
from robust_clip.attacks.base import Attack, Problem
from robust_clip.attacks.fab import FAB
from robust_clip.attacks.losses import are_probabilities, labels_of
from robust_clip.attacks.runs import AttackRun, Victim
from robust_clip.attacks.square import Square
from robust_clip.paper import Paper

logger = logging.getLogger(__name__)

# Components as the authors' code sets them (version 0.1 of https://github.com/fra31/auto-attack). Nothing else should
# be called AutoAttack without saying what it is made of.
VERSIONS: dict[str, tuple[AttackRun, ...]] = {
    "standard": (
        AttackRun(APGD(), "cross_entropy"),
        AttackRun(APGD(targets=9), "dlr"),
        AttackRun(FAB(targets=9), "margin"),
        AttackRun(Square(), "margin"),
    ),
    "standard_without_fab": (
        AttackRun(APGD(), "cross_entropy"),
        AttackRun(APGD(targets=9), "dlr"),
        AttackRun(Square(), "margin"),
    ),
    "plus": (
        AttackRun(APGD(restarts=5), "cross_entropy"),
        AttackRun(APGD(restarts=5), "dlr"),
        AttackRun(FAB(targets=None, restarts=5), "margin"),
        AttackRun(Square(), "margin"),
        AttackRun(APGD(targets=9), "dlr"),
        AttackRun(FAB(targets=9), "margin"),
    ),
    "rand": (
        AttackRun(APGD(), "cross_entropy", eot_samples=20),
        AttackRun(APGD(), "dlr", eot_samples=20),
    ),
}


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """An ensemble of attacks that need no tuning, each run on the samples that still stand.

    https://huggingface.co/papers/2003.01690, Section 6. `standard` is APGD on cross-entropy, targeted APGD on DLR,
    targeted FAB and Square; `plus` adds untargeted DLR and FAB and restarts; `rand`, for random models, averages
    gradients over 20 passes; `standard_without_fab` is `standard` for installations without the extra `autoattack`,
    and is no AutoAttack as published. The losses are the components' own: of the loss that the ensemble is handed only
    the labels are used. For few classes see `fit_to_classes`.

    Args:
        version: Key of `VERSIONS`, or `custom`.
        runs: The components of `custom`, and of no other version.

    Raises:
        ValueError: If the version is unknown, `custom` has no components, or another version is given some.
    """

    paper: ClassVar[Paper] = APGD.paper

    version: str = "standard"
    runs: tuple[AttackRun, ...] = field(default=())

    def __post_init__(self) -> None:
        """Check that the name and the components agree."""
        known = [*VERSIONS, "custom"]
        if self.version not in known:
            raise ValueError(f"unknown version {self.version!r} of AutoAttack, known: {', '.join(known)}")
        if (self.version == "custom") != bool(self.runs):
            raise ValueError(f"runs are given for version custom and for no other, got {self.version!r}, {self.runs}")

    @property
    def components(self) -> tuple[AttackRun, ...]:
        """The attacks in order, with the losses that they climb."""
        return self.runs or VERSIONS[self.version]

    @property
    def gradient_passes(self) -> int:
        """Those of all components."""
        return sum(run.attack.gradient_passes * run.eot_samples for run in self.components)

    def require_packages(self) -> None:
        """Refuse to begin without what a component needs, rather than to stop at it."""
        for run in self.components:
            run.attack.require_packages()

    def search(self, problem: Problem) -> Tensor:
        """Run one component after the other.

        Raises:
            ValueError: If the loss has no labels.
            ImportError: If a component needs a package that is not installed.
        """
        self.require_packages()
        labels = labels_of(problem.loss, "AutoAttack")
        outputs = problem.outputs(problem.pixels)
        runs, notes = fit_to_classes(self.components, outputs.shape[1])
        if are_probabilities(outputs):
            notes.append("the outputs are probabilities, not logits: gradients vanish in them; leave the softmax out")
        for note in notes:
            logger.warning("%s", note)
        adversarial = problem.pixels.clone()
        wrong = problem.confirm(problem.pixels, outputs.argmax(dim=1) != labels)
        left = (~wrong).nonzero().flatten()
        for run in runs:
            if not len(left):
                break
            attempt = problem[left]
            forward, loss = run.aim(Victim(problem.forward), attempt.pixels, labels[left])
            eot_samples = max(problem.eot_samples, run.eot_samples)
            attempt = replace(attempt, forward=forward, loss=loss, eot_samples=eot_samples)
            found = run.attack.search(attempt)
            adversarial[left] = found
            fooled = attempt.outputs(found).argmax(dim=1) != labels[left]
            left = left[~attempt.confirm(found, fooled)]
        return adversarial


def fit_to_classes(runs: Sequence[AttackRun], n_classes: int) -> tuple[tuple[AttackRun, ...], list[str]]:
    """What of an ensemble can be run on few classes, and what was put in place of the rest.

    DLR compares three logits and targeted DLR four, and there are only `n_classes - 1` classes to aim at
    (https://huggingface.co/papers/2003.01690, Eqs. 6 and 7).

    Args:
        runs: Attacks in order.
        n_classes: At least 1.

    Returns:
        The attacks to run, where what has become like another is put together with it, and a sentence for each that
        was changed or left out.

    Example:
        >>> runs, notes = fit_to_classes([AttackRun(APGD(targets=9), "dlr")], 5)
        >>> runs[0].attack.targets, notes
        (4, ['apgd_t-dlr: 4 targets instead of 9, since there are 5 classes'])
    """
    fitted: list[AttackRun] = []
    changed: set[int] = set()
    notes = []
    for run in runs:
        if isinstance(run.attack, AutoAttack):
            components, inner = fit_to_classes(run.attack.components, n_classes)
            notes += [f"{run}: {note}" for note in inner]
            attack = AutoAttack(version="custom", runs=components) if inner and components else run.attack
            fitted += [replace(run, attack=attack)] if components else []
            continue
        smaller, note = _fit(run, n_classes)
        if note:
            notes.append(f"{run}: {note}, since there are {n_classes} classes")
        if smaller is None:
            continue
        alike = (place for place, other in enumerate(fitted) if _same_search(smaller, other))
        twin = next((place for place in alike if note or place in changed), None)
        if twin is None:
            changed |= {len(fitted)} if note else set()
            fitted.append(smaller)
        else:
            fitted[twin] = _both(fitted[twin], smaller)
    return tuple(fitted), notes


def _fit(run: AttackRun, n_classes: int) -> tuple[AttackRun | None, str | None]:
    """The nearest that can be run, or None, and what was done."""
    attack: Any = run.attack
    targets = getattr(attack, "targets", None)
    if n_classes < 2 and (targets or run.loss != "cross_entropy"):
        return None, "left out"
    if run.loss == "dlr" and n_classes < 3:
        return replace(run, attack=_untargeted(attack), loss="cross_entropy"), "cross-entropy without targets instead"
    if run.loss == "dlr" and targets and n_classes < 4:
        return replace(run, attack=_untargeted(attack)), "without targets"
    if targets and targets > n_classes - 1:
        return replace(run, attack=replace(attack, targets=n_classes - 1)), (
            f"{n_classes - 1} targets instead of {targets}"
        )
    return run, None


def _same_search(run: AttackRun, other: AttackRun) -> bool:
    """Whether two attacks are one but for how often they start anew, and over how many random draws they look."""
    fields = [{"restarts": None} | vars(each.attack) | {"restarts": None} for each in (run, other)]
    kinds = [(type(each), type(each.attack), each.loss) for each in (run, other)]
    return kinds[0] == kinds[1] and fields[0] == fields[1]


def _both(run: AttackRun, other: AttackRun) -> AttackRun:
    """One search that does as much as either of two."""
    attack: Any = run.attack
    if restarts := max(getattr(each.attack, "restarts", 0) for each in (run, other)):
        attack = replace(attack, restarts=restarts)
    return replace(run, attack=attack, eot_samples=max(run.eot_samples, other.eot_samples))


def _untargeted(attack: Any) -> Attack:
    """The same search without targets."""
    untargeted: Attack = replace(attack, targets=None) if getattr(attack, "targets", None) else attack
    return untargeted

