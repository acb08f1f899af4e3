"""How robustness is measured: everything that a number depends on besides the model, the data and the seed."""

from dataclasses import KW_ONLY, asdict, dataclass, replace
from inspect import signature
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from robust_clip.attacks import LOSSES, PGD, Attack, AttackLoss
from robust_clip.threat_model import ThreatModel

Resolution = Literal["native", "model"]
SampleChoice = Literal["random", "first"]
Templates = Literal["single", "ensemble"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class AttackRun:
    """One attack of a protocol and the loss that it climbs.

    Args:
        attack: The search.
        loss: Key of `robust_clip.attacks.LOSSES`, of a loss that is made from labels.

    Raises:
        ValueError: If the loss is unknown or has no labels.
    """

    attack: Attack
    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        """Refuse a loss that class predictions cannot be attacked with."""
        with_labels = [name for name, loss in LOSSES.items() if "labels" in signature(loss).parameters]
        if self.loss not in with_labels:
            raise ValueError(f"a protocol attacks class predictions with one of {with_labels}, got {self.loss!r}")

    def __str__(self) -> str:
        """Short name for records: `pgd-cross_entropy`."""
        return f"{type(self.attack).__name__.lower()}-{self.loss}"

    def loss_of(self, labels: Tensor) -> AttackLoss:
        """The loss of a batch with `labels` `(B,)`."""
        make: Any = LOSSES[self.loss]
        loss: AttackLoss = make(labels)
        return loss

    def as_dict(self) -> dict[str, Any]:
        """What a row says about this attack."""
        attack: Any = self.attack
        return {"attack": type(attack).__name__, "loss": self.loss, "parameters": asdict(attack)}


@dataclass(frozen=True)
class Protocol:
    """A named and versioned way to measure; whoever changes what a name means raises its version.

    Args:
        name: As in `PROTOCOLS` and in the folders of records.
        version: From 1 upwards.
        attacks: Tried in this order, each on the images that stood up to all before it; none measures clean accuracy.
        threat_model: What the attacks may do; `None` if and only if there are none.
        resolution: Grid of the perturbation. `native`: square images no larger than the model's input keep their own
            grid and are resized inside the model. `model`: every image is resized before the attack.
        samples: How many images; `None` for all, which is also what a number above the size of the split gives.
        sample_choice: Which ones: drawn by the seed, or the first of the split.
        templates: `single`: the first template of the data set. `ensemble`: the mean over all its templates or, where
            it has but one, over the package's ensemble for it.
        precision: `fp32`, with TF32 and autocast off, or `bf16` autocast. In reduced precision gradients are noisy
            and attacks weaker, so that the number may flatter the model.
        source: Where the constants come from.

    Raises:
        ValueError: If a field has no such value, or attacks and threat model are not given together.
    """

    name: str
    version: int
    attacks: tuple[AttackRun, ...]
    threat_model: ThreatModel | None
    _: KW_ONLY
    resolution: Resolution = "native"
    samples: int | None = None
    sample_choice: SampleChoice = "random"
    templates: Templates = "single"
    precision: Precision = "fp32"
    source: str = "ours"

    def __post_init__(self) -> None:
        """Check every field against what it may be."""
        choices = {
            "resolution": Resolution,
            "sample_choice": SampleChoice,
            "templates": Templates,
            "precision": Precision,
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in get_args(allowed):
                raise ValueError(f"{field} must be one of {get_args(allowed)}, got {getattr(self, field)!r}")
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples must be at least 1, or None for all, got {self.samples}")
        if bool(self.attacks) != (self.threat_model is not None):
            raise ValueError(
                f"a threat model is needed with attacks and without them means nothing: protocol {self.name!r} has "
                f"{len(self.attacks)} attacks and threat model {self.threat_model}"
            )

    @property
    def attack_names(self) -> tuple[str, ...]:
        """What records call each attack, unique within the protocol: `1-pgd-cross_entropy`."""
        return tuple(f"{position}-{run}" for position, run in enumerate(self.attacks, start=1))

    @property
    def folder(self) -> str:
        """Readable name for a folder of records: `pgd20-v1-linf-4_255`."""
        parts = [self.name, f"v{self.version}"]
        if self.threat_model:
            parts += str(self.threat_model).replace("/", "_").split()
        if self.samples is not None:
            parts.append(f"{self.sample_choice}{self.samples}")
        return "-".join(parts)

    def choose(self, size: int, seed: int) -> list[int]:
        """Positions of the images to evaluate, ascending, in a split of `size` images."""
        if self.samples is None or self.samples >= size:
            return list(range(size))
        if self.sample_choice == "first":
            return list(range(self.samples))
        generator = torch.Generator().manual_seed(seed)
        chosen: list[int] = torch.randperm(size, generator=generator)[: self.samples].sort().values.tolist()
        return chosen

    def as_dict(self) -> dict[str, Any]:
        """What a row says about the protocol, in the types of JSON."""
        return {
            "name": self.name,
            "version": self.version,
            "attacks": [run.as_dict() for run in self.attacks],
            "threat_model": asdict(self.threat_model) if self.threat_model else None,
            "resolution": self.resolution,
            "samples": self.samples,
            "sample_choice": self.sample_choice,
            "templates": self.templates,
            "precision": self.precision,
            "source": self.source,
        }


def _pgd(steps: int) -> Protocol:
    return Protocol(
        f"pgd{steps}",
        version=1,
        attacks=(AttackRun(PGD(steps=steps, stop_when_fooled=True)),),
        threat_model=ThreatModel("linf", "1/255"),
        source=(
            f"PGD-{steps} as papers on zero-shot robustness run it; the step of epsilon/4 is ours: theirs is epsilon, "
            "which jumps between corners of the ball"
        ),
    )


PROTOCOLS: dict[str, Protocol] = {
    "clean": Protocol("clean", version=1, attacks=(), threat_model=None),
    "pgd20": _pgd(20),
    "pgd100": _pgd(100),
}


def get_protocol(
    name: str,
    *,
    epsilon: float | str | None = None,
    resolution: Resolution | None = None,
    samples: int | None = None,
    sample_choice: SampleChoice | None = None,
    templates: Templates | None = None,
    precision: Precision | None = None,
) -> Protocol:
    """A preset, with what is not `None` in place of its own fields.

    Args:
        name: Key of `PROTOCOLS`.
        epsilon: Radius in the preset's norm, a number or text such as `"4/255"`.
        resolution: As in `Protocol`, and so are the rest.
        samples: How many images.
        sample_choice: Which images.
        templates: Which templates.
        precision: Number format.

    Raises:
        ValueError: If the name is unknown, a field has no such value, or a protocol without attacks gets an epsilon.

    Example:
        >>> print(get_protocol("pgd20", epsilon="4/255").threat_model)
        linf 4/255
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}, known: {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    fields: dict[str, Any] = {
        "resolution": resolution,
        "samples": samples,
        "sample_choice": sample_choice,
        "templates": templates,
        "precision": precision,
    }
    if epsilon is not None:
        if protocol.threat_model is None:
            raise ValueError(f"protocol {name!r} has no attacks, so it takes no epsilon, got {epsilon!r}")
        fields["threat_model"] = ThreatModel(protocol.threat_model.norm, epsilon)
    return replace(protocol, **{field: value for field, value in fields.items() if value is not None})
