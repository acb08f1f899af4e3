"""The sections of a recipe as objects: all of them are checked before anything long begins."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import CLIPProcessor

from robust_clip.adaptation import ADAPTATIONS, Adaptation
from robust_clip.attacks import ATTACKS, Attack, AttackRun, TextAttack
from robust_clip.attacks.text_registry import TEXT_ATTACKS
from robust_clip.data import DataSource, ImageDataset, Mixture
from robust_clip.evaluation import Protocol, get_protocol
from robust_clip.evaluation.protocol import Resolution, Templates
from robust_clip.models import RobustCLIPModel, load_checkpoint
from robust_clip.models.scratch import build_clip
from robust_clip.objectives import OBJECTIVES, Objective
from robust_clip.threat_model import ThreatModel
from robust_clip.training import AdversarialTrainingArguments

from .recipe import choose, construct


@dataclass(frozen=True)
class ModelSource:
    """The `model` section: a checkpoint to start from, or the sizes of a new one.

    Args:
        name: Hub id or path of a CLIP checkpoint, or `nano_clip`, which comes with the package.
        revision: Branch, tag or commit on the Hub.
        scratch: Arguments of `build_clip`, in place of `name`.
        image_mean: What pixels are normalised by, in place of the checkpoint's: a number for each channel.
        image_std: Likewise the deviation.
    """

    name: str | None = None
    revision: str = "main"
    scratch: dict[str, Any] | None = None
    image_mean: Sequence[float] | None = None
    image_std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for key, channels in self._normalisation.items():
            if len(channels) != 3 or (key == "image_std" and min(channels) <= 0):
                raise ValueError(f"model.{key} is three numbers, one for each channel, std above 0; got {channels}.")
        if (self.name is None) == (self.scratch is None):
            raise ValueError("Section model needs either name (a checkpoint) or scratch (sizes of a new model).")

    def load(self, texts: Iterable[str]) -> tuple[RobustCLIPModel, CLIPProcessor]:
        """The model and its processor; `texts` fit the tokenizer of a new model."""
        if self.scratch is not None:
            model, processor = build_clip(texts, **self.scratch)
        else:
            model, processor = load_checkpoint(str(self.name), self.revision)
        for key, channels in self._normalisation.items():
            setattr(model.config, key, channels)
            setattr(processor.image_processor, key, channels)
        return model, processor

    @property
    def _normalisation(self) -> dict[str, list[float]]:
        given = {"image_mean": self.image_mean, "image_std": self.image_std}
        return {key: list(channels) for key, channels in given.items() if channels is not None}


@dataclass(frozen=True)
class EvaluationPlan:
    """The `evaluation` section: what is measured after training, on the checkpoint before and after.

    Images are attacked `training.per_device_eval_batch_size` at once.

    Args:
        datasets: Name in the records to `name`, `root`, `split` and `classes` as in the `data` section; name and root
            are by default those of the training data, and the split is `test`.
        protocol: Name of a protocol.
        epsilons: Radii, each measured on its own; by default the protocol's.
        resolution: Grid of the perturbation, `native` or `model`; by default the protocol's.
        templates: `single`, `ensemble` or `clip`; by default the protocol's.
        samples: Images of each data set; all by default.
        seed: Of the choice of images and of random starts.
        undefended: Whether the checkpoint before training is measured too.

    Raises:
        ValueError: If the protocol is unknown or a value is none of its.
    """

    datasets: Mapping[str, Mapping[str, Any]]
    protocol: str = "pgd20"
    epsilons: Sequence[float | str] = ()
    resolution: Resolution | None = None
    templates: Templates | None = None
    samples: int | None = None
    seed: int = 0
    undefended: bool = True

    def __post_init__(self) -> None:
        self.protocols()

    def protocols(self) -> list[Protocol]:
        """One protocol for each epsilon."""
        return [
            get_protocol(
                self.protocol,
                epsilon=epsilon,
                resolution=self.resolution,
                samples=self.samples,
                templates=self.templates,
            )
            for epsilon in self.epsilons or (None,)
        ]

    def sources(self, training: DataSource) -> dict[str, DataSource]:
        """The data sets by the names that records give them; `training` is what the model is trained on.

        Raises:
            ValueError: If a data set has an unknown key, or is a mixture.
        """

        def source(
            name: Any = training.name,
            root: str | None = training.root,
            split: str = "test",
            classes: str | Sequence[str] | None = None,
        ) -> DataSource:
            # The ensemble is looked up here, by the data set's own name.
            return DataSource(name, root, split, classes, templates=self.templates or "single")

        if not self.datasets:
            raise ValueError("evaluation.datasets names nothing to measure on; leave the section out instead.")
        found = {}
        for name, fields in self.datasets.items():
            found[name] = construct(f"evaluation.datasets.{name}", source, fields or {})
            if not isinstance(found[name].name, str):
                raise ValueError(f"evaluation.datasets.{name} needs the name of one data set: accuracy is of one.")
        return found


@dataclass(frozen=True)
class Sections:
    """All sections through their constructors; nothing is loaded yet."""

    objective: Objective
    attack: Attack | AttackRun | None
    text_attack: TextAttack | None
    threat_model: ThreatModel | None
    adaptation: Adaptation | None
    data: DataSource
    model: ModelSource
    training: AdversarialTrainingArguments
    evaluation: EvaluationPlan | None

    @classmethod
    def of(cls, recipe: Mapping[str, Mapping[str, Any]]) -> "Sections":
        """Those of a recipe.

        Raises:
            ValueError: On the first mistake.
        """

        def built(section: str, build: Callable[[str, Any, Mapping[str, Any]], Any], how: Any) -> Any:
            return build(section, how, recipe[section]) if recipe.get(section) else None

        attack, text_attack = _attacks(recipe.get("attack") or {})
        sections = cls(
            objective=choose("objective", OBJECTIVES, recipe.get("objective", {})),
            attack=attack,
            text_attack=text_attack,
            threat_model=built("threat_model", construct, ThreatModel),
            adaptation=built("adaptation", choose, ADAPTATIONS),
            data=construct("data", DataSource, recipe.get("data", {}), renamed={"train": "name"}),
            model=construct("model", ModelSource, recipe.get("model", {})),
            training=construct("training", AdversarialTrainingArguments, recipe.get("training", {})),
            evaluation=built("evaluation", construct, EvaluationPlan),
        )
        sections.evaluation_sources()
        return sections

    def evaluation_sources(self) -> dict[str, DataSource]:
        """The data sets to evaluate on; none without an evaluation section."""
        return self.evaluation.sources(self.data) if self.evaluation else {}

    def load_data(self) -> tuple[ImageDataset | Mixture, dict[str, ImageDataset]]:
        """What to train on, and what to evaluate on by the names that records give it."""
        evaluated: dict[str, Any] = {name: source.load() for name, source in self.evaluation_sources().items()}
        return self.data.load(), {name: dataset.called(name) for name, dataset in evaluated.items()}


def _attacks(settings: Mapping[str, Any]) -> tuple[Attack | AttackRun | None, TextAttack | None]:
    """The `attack` section: a search for images, and under `text` one for captions; either may be missing.

    `loss` stands beside the parameters of the first where it climbs another loss than the paper's.
    """
    texts = settings.get("text")
    texts = {"name": texts} if isinstance(texts, str) else texts
    text_attack: TextAttack | None = choose("attack.text", TEXT_ATTACKS, texts) if texts else None
    search = {key: value for key, value in settings.items() if key not in ("loss", "text")}
    if not search and "loss" not in settings:
        return None, text_attack
    attack: Attack = choose("attack", ATTACKS, search)
    return (AttackRun(attack, settings["loss"]) if "loss" in settings else attack), text_attack
