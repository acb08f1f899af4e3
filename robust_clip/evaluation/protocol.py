"""How robustness is measured: everything that a number depends on besides the model, the data and the seed."""

from collections.abc import Collection
from dataclasses import KW_ONLY, asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch

from robust_clip.attacks import EMBEDDING_LOSSES, AttackRun, TextAttack, fit_to_classes
from robust_clip.models import TestTimeDefence
from robust_clip.threat_model import ThreatModel

Resolution = Literal["native", "model", "listed"]
SampleChoice = Literal["random", "first", "robustbench"]
Templates = Literal["single", "ensemble", "clip"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class UndefendedRun(AttackRun):
    """An attack on the undefended classifier, in a protocol whose other attacks go through a test-time defence.

    Whoever knows of a defence can still do what others do, and for some models that is the better attack.
    """

    def __str__(self) -> str:
        """Short name for records: `pgd-cross_entropy-undefended`."""
        return f"{super().__str__()}-undefended"

    def as_dict(self) -> dict[str, Any]:
        """What a row says about this attack."""
        return super().as_dict() | {"sees": "the undefended classifier"}


@dataclass(frozen=True)
class Protocol:
    """A named and versioned way to measure; whoever changes what a name means raises its version.

    Args:
        name: As in `PRESETS` and in the folders of records.
        version: From 1 upwards.
        attacks: Attacks on images, in this order, each on those that stood up to all before it.
        threat_model: What the attacks may do to an image; `None` if and only if there are none.
        text_attack: Attack on the class prompts, once for each prompt and without a look at images. With attacks on
            images, these see the clean prompts, and the attacked image is judged by the attacked prompts alone, as
            MMCoA counts: give attacks that do not stop at the first image that fools the clean prompts.
        resolution: Grid of the perturbation. `native`: square images no larger than the model's input keep their own
            grid and are resized inside the model. `model`: every image is resized before the attack. `listed`: native
            for the data sets in `native_datasets`, the model's for all others, as the papers' code does it.
        native_datasets: For `listed`, names of data sets.
        samples: How many images; `None` for all, which is also what a number above the size of the split gives.
        sample_choice: Which ones: drawn by the seed, the first of the split, or the first of RobustBench's list for
            ImageNet, which are found by the names of their files, see `choose_rows`.
        templates: `single`: the first template of the data set. `ensemble`: the mean over all its templates or, where
            it has but one, over the package's ensemble for it. `clip`: the mean over CLIP's published list for it.
        precision: `fp32`, with TF32 and autocast off, or `bf16` autocast. In reduced precision gradients are noisy
            and attacks weaker, so that the number may flatter the model.
        temperature: What cosines are divided by, in place of the checkpoint's.
        compiled: Whether the vision tower runs through `torch.compile`; rounding differs from the uncompiled one's.
        objective: The training objective that attacks with the loss `objective` climb, in words: its parameters and
            its teacher. There is one if and only if there are such attacks.
        test_time_defence: What every image, clean or attacked, is judged through.
        attacks_know: Whether attacks, but for `UndefendedRun`, go through the defence, too, or are made on the
            undefended classifier, as the papers of such defences do, which says little of how a defence holds.
        source: Where the constants come from.

    Raises:
        ValueError: If a field has no such value, attacks and threat model are not given together, an attack cannot
            keep to the threat model's norm or climbs an objective that is not named, or there is a test-time defence
            that attacks cannot be led through or that is random and met with single draws.
    """

    name: str
    version: int
    attacks: tuple[AttackRun, ...]
    threat_model: ThreatModel | None
    _: KW_ONLY
    text_attack: TextAttack | None = None
    resolution: Resolution = "native"
    native_datasets: tuple[str, ...] = ("cifar10", "cifar100", "stl10")
    samples: int | None = None
    sample_choice: SampleChoice = "random"
    templates: Templates = "single"
    precision: Precision = "fp32"
    temperature: float | None = None
    compiled: bool = False
    objective: str | None = None
    test_time_defence: TestTimeDefence | None = None
    attacks_know: bool = True
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
            raise ValueError(f"samples must be at least 1, or left out for all, got {self.samples}")
        if bool(self.attacks) != (self.threat_model is not None):
            raise ValueError(
                f"a threat model is needed with attacks and without them means nothing: protocol {self.name!r} has "
                f"{len(self.attacks)} attacks and threat model {self.threat_model}"
            )
        for run in self.attacks:
            if self.threat_model and self.threat_model.norm not in run.attack.norms:
                raise ValueError(
                    f"{type(run.attack).__name__} keeps to {' or '.join(run.attack.norms)} alone: protocol "
                    f"{self.name!r} has the threat model {self.threat_model}"
                )
            if run.loss == "joint_divergence" and self.text_attack is None:
                raise ValueError(f"{run} of protocol {self.name!r} needs attacked prompts; give a text_attack")
        if any(run.loss == "objective" for run in self.attacks) != (self.objective is not None):
            raise ValueError(
                f"an objective is named where attacks climb it and nowhere else: protocol {self.name!r} has the "
                f"attacks {', '.join(map(str, self.attacks)) or 'none'} and the objective {self.objective}"
            )
        self._check_defence()

    def _check_defence(self) -> None:
        defence = self.test_time_defence
        if defence is None:
            return
        if self.text_attack or self.objective:
            what = "attacks texts" if self.text_attack else "climbs the loss of an objective"
            raise ValueError(f"protocol {self.name!r} {what}, which does not go through {defence}; leave one out")
        for run in self.knowing:
            if run.loss in EMBEDDING_LOSSES:
                raise ValueError(f"{run} climbs image features, and {defence} gives logits alone: use another loss")
            if defence.random and run.eot_samples < 2:
                raise ValueError(
                    f"{defence} draws lots, and {run} sees one draw at a time: give attacks that know of it 2 "
                    "eot_samples or more"
                )

    @property
    def knowing(self) -> tuple[AttackRun, ...]:
        """The attacks that go through the test-time defence."""
        if self.test_time_defence is None or not self.attacks_know:
            return ()
        return tuple(run for run in self.attacks if not isinstance(run, UndefendedRun))

    @property
    def domain(self) -> str:
        """What is attacked: `image`, `text`, `both` or `nothing`."""
        if self.text_attack:
            return "both" if self.attacks else "text"
        return "image" if self.attacks else "nothing"

    @property
    def stages(self) -> tuple[AttackRun | None, ...]:
        """What an image goes through after the clean check; `None` is the clean image before attacked prompts."""
        return self.attacks or ((None,) if self.text_attack else ())

    @property
    def attack_names(self) -> tuple[str, ...]:
        """What records call each stage, unique within the protocol: `1-pgd-cross_entropy`."""
        text = [self.text_attack.short_name] if self.text_attack else []
        names = ["+".join([*([str(run)] if run else []), *text]) for run in self.stages]
        return tuple(f"{position}-{name}" for position, name in enumerate(names, start=1))

    def require_packages(self) -> None:
        """Refuse to begin without the packages and models that the attacks need.

        Raises:
            ImportError: If a package is not installed.
            ValueError: If a model cannot be loaded.
        """
        for run in self.attacks:
            run.attack.require_packages()
        if self.text_attack:
            self.text_attack.require_packages()

    def fit_to_classes(self, n_classes: int) -> tuple["Protocol", list[str]]:
        """The protocol that can be run on `n_classes`, and a sentence for each attack that was changed or left out."""
        runs, notes = fit_to_classes(self.attacks, n_classes)
        if self.attacks and not runs:
            raise ValueError(f"protocol {self.name!r} needs more classes than {n_classes}: {'; '.join(notes)}")
        return replace(self, attacks=runs), notes

    def resolution_for(self, dataset: str) -> Literal["native", "model"]:
        """Grid of the perturbation on a data set, by its name."""
        return listed_grid(dataset, self.native_datasets) if self.resolution == "listed" else self.resolution

    @property
    def folder(self) -> str:
        """Readable name for a folder of records: `pgd20-v1-linf-4_255`."""
        parts = [self.name, f"v{self.version}"]
        if self.threat_model:
            parts += str(self.threat_model).replace("/", "_").split()
        if self.temperature is not None:
            parts.append(f"temperature{self.temperature:g}")
        if self.samples is not None:
            parts.append(f"{self.sample_choice}{self.samples}")
        return "-".join(parts)

    def choose(self, size: int, seed: int) -> list[int]:
        """Positions of the images to evaluate, ascending, in a split of `size` images.

        Images of a list are for `choose_rows` to find; here they are drawn by the seed.
        """
        if self.samples is None or self.samples >= size:
            return list(range(size))
        if self.sample_choice == "first":
            return list(range(self.samples))
        generator = torch.Generator().manual_seed(seed)
        chosen: list[int] = torch.randperm(size, generator=generator)[: self.samples].sort().values.tolist()
        return chosen

    def as_dict(self) -> dict[str, Any]:
        """What a row says about the protocol, in the types of JSON; what most protocols lack is left out."""
        rare: dict[str, Any] = {}
        if self.text_attack:
            rare["text_attack"] = self.text_attack.as_dict()
        if self.resolution == "listed":
            rare["native_datasets"] = list(self.native_datasets)
        if self.temperature is not None:
            rare["temperature"] = self.temperature
        if self.compiled:
            rare["compiled"] = True
        if self.objective is not None:
            rare["objective"] = self.objective
        if self.test_time_defence is not None:
            knowledge = {"attacks_know": self.attacks_know} if self.attacks else {}
            rare["test_time_defence"] = self.test_time_defence.as_dict() | knowledge
        return rare | {
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


def listed_grid(dataset: str, native_datasets: Collection[str]) -> Literal["native", "model"]:
    """Grid of the perturbation where a list of data sets decides.

    >>> listed_grid("cifar10", ["cifar10"]), listed_grid("imagenet", ["cifar10"])
    ('native', 'model')
    """
    return "native" if dataset in native_datasets else "model"
