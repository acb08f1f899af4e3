"""Studies: several methods from one checkpoint under one budget, as a file of recipes that share what they share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robust_clip.data import DataSource
from robust_clip.evaluation import Protocol, get_protocols
from robust_clip.suggestions import instead

from .recipe import SECTIONS, as_section, construct, read_yaml
from .sections import Sections

_OWN = ("seeds", "learning_rates")


@dataclass(frozen=True)
class Run:
    """One training of a method.

    Args:
        method: Its name in the study.
        learning_rate: Of the grid.
        seed: Of training.
        recipe: Sections, as `load_recipe` gives them.
    """

    method: str
    learning_rate: float
    seed: int
    recipe: dict[str, dict[str, Any]]

    @property
    def folder(self) -> Path:
        """Where it is trained."""
        return Path(self.recipe["training"]["output_dir"])


@dataclass(frozen=True)
class Measurement:
    """What is measured of trained models.

    Args:
        protocol: Name of a preset, which may stand for several protocols.
        datasets: Names of data sets; or, as in a recipe, the name in the records to `name` and `classes`.
        epsilons: Radii; the protocol's own by default.
        samples: Images of each data set; the protocol's own number by default.
        split: Of every data set.
        only: Methods that it is measured of; all by default.

    Raises:
        ValueError: If the protocol, a radius or a key of a data set is wrong, or there are no data sets.
    """

    protocol: str
    datasets: Sequence[str] | Mapping[str, Mapping[str, Any]]
    epsilons: Sequence[str | float] = ()
    samples: int | None = None
    split: str = "test"
    only: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("datasets", "epsilons", "only"):
            if isinstance(given := getattr(self, name), str | int | float):
                raise ValueError(f"{name} of a measurement is a list, got {given!r}; write [{given}].")
        if not self.datasets:
            raise ValueError("A measurement needs datasets: a list of names.")
        self.protocols()
        self.sources(None)

    def sources(self, root: str | None) -> dict[str, DataSource]:
        """What is measured on, by the name in the records; `root` is looked into before the Hub."""

        def source(name: str, classes: str | Sequence[str] | None = None) -> DataSource:
            return DataSource(name, root, self.split, tuple(classes) if isinstance(classes, list) else classes)

        if isinstance(self.datasets, Mapping):
            return {name: construct(f"datasets.{name}", source, each) for name, each in self.datasets.items()}
        return {name: source(name) for name in self.datasets}

    def protocols(self) -> tuple[Protocol, ...]:
        """One for each radius."""
        return tuple(get_protocols(self.protocol, epsilons=tuple(map(str, self.epsilons)), samples=self.samples))


@dataclass(frozen=True)
class StudyPlan:
    """The whole study.

    Args:
        output_dir: Folder for checkpoints, rows and tables.
        recipe: Sections that all methods share.
        methods: Name to the sections that a method adds or changes, key by key; `null` leaves a section out. `seeds`
            and `learning_rates` beside them are its own.
        learning_rates: The grid, of all methods that have none of their own: what is few and new learns at others.
        selection: What chooses among the grid: the mean of clean and robust accuracy, of images that are held out of
            the training split (`split: "train:validation"` beside `data.split: "train:fit"`).
        evaluation: What is measured of the chosen.
        seeds: Of training. The grid is searched with the first.
        root: Folder of data sets that is looked into before the Hub, in place of `data.root` of all recipes, too.

    Raises:
        ValueError: If something is empty, repeated or unknown, images would choose that are trained on or tested on,
            or a recipe is wrong.
    """

    output_dir: str
    recipe: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    learning_rates: Sequence[float]
    selection: Measurement
    evaluation: Sequence[Measurement]
    seeds: Sequence[int] = (0,)
    root: str | None = None

    def __post_init__(self) -> None:
        for name in ("methods", "learning_rates", "seeds", "evaluation"):
            if not getattr(self, name):
                raise ValueError(f"A study needs {name}; the list is empty.")
        if not isinstance(self.methods, Mapping):
            raise ValueError(f"methods must map names to sections, got {self.methods!r}; such as {{tecoa: {{}}}}.")
        for name, sections in self.methods.items():
            if not isinstance(sections, Mapping):
                raise ValueError(f"The method {name} must be a mapping of sections, got {sections!r}; {{}} is empty.")
        rates = [rate for method in self.methods for rate in self.learning_rates_of(method)]
        if any(not (isinstance(rate, int | float) and rate > 0) for rate in rates):
            raise ValueError(f"learning_rates must be positive numbers, got {rates}.")
        unknown = {name for measured in self.evaluation for name in measured.only} - set(self.methods)
        if unknown:
            raise ValueError(f"evaluation names {sorted(unknown)}, which are not among {sorted(self.methods)}.")
        for method in self.methods:
            run = self.run(method, self.learning_rates_of(method)[0], self.seeds_of(method)[0])
            whole, _, part = Sections.of(run.recipe).data.split.partition(":")
            if part != "fit" or self.selection.split != f"{whole}:validation":
                raise ValueError(
                    f"{method} would be trained on the split {run.recipe['data'].get('split', whole)!r}, and learning "
                    f"rates chosen by {self.selection.split!r}: what chooses is held out of training and is no test "
                    'split. Set data.split "train:fit" and selection.split "train:validation".'
                )

    def seeds_of(self, method: str) -> Sequence[int]:
        """Its own, or those of the study.

        Raises:
            ValueError: If its list is empty or repeats one.
        """
        return self._own(method, "seeds")

    def learning_rates_of(self, method: str) -> Sequence[float]:
        """Its own grid, or that of the study.

        Raises:
            ValueError: If its list is empty or repeats one.
        """
        return self._own(method, "learning_rates")

    @property
    def parts_of_sets(self) -> set[str]:
        """Names of what is measured beside whole data sets; no mean over them says anything."""
        return {name for each in self.evaluation if isinstance(each.datasets, Mapping) for name in each.datasets}

    def by_seed(self, methods: Iterable[str]) -> Iterator[tuple[str, int]]:
        """Each method with its first seed, then with its second: stopped early, a study compares all of them."""
        ranked = [(rank, method, seed) for method in methods for rank, seed in enumerate(self.seeds_of(method))]
        for _, method, seed in sorted(ranked, key=lambda each: each[0]):
            yield method, seed

    def run(self, method: str, learning_rate: float, seed: int) -> Run:
        """A training of a method.

        Raises:
            ValueError: If the method has an unknown section.
        """
        recipe = {section: as_section(section, value) for section, value in self.recipe.items()}
        for section, value in self.methods[method].items():
            if section in _OWN:
                continue
            if section not in SECTIONS:
                raise ValueError(f"Unknown section {section!r} of {method}{instead(section, (*SECTIONS, *_OWN))}")
            recipe[section] = {} if value is None else recipe.get(section, {}) | as_section(section, value)
        folder = Path(self.output_dir) / method / f"learning_rate_{learning_rate:g}_seed_{seed}"
        own = {"output_dir": str(folder), "learning_rate": learning_rate, "seed": seed}
        recipe["training"] = recipe.get("training", {}) | own
        if self.root is not None:
            recipe["data"] = recipe.get("data", {}) | {"root": self.root}
        return Run(method, learning_rate, seed, recipe)

    def grid(self, method: str) -> Iterator[Run]:
        """Its trainings with the first seed, one for each learning rate."""
        for rate in self.learning_rates_of(method):
            yield self.run(method, rate, self.seeds_of(method)[0])

    def _own(self, method: str, what: str) -> Sequence[Any]:
        found: Sequence[Any] = self.methods[method].get(what, getattr(self, what))
        if not isinstance(found, list | tuple):
            raise ValueError(f"The {what} of {method} must be a list, got {found!r}.")
        if not found:
            raise ValueError(f"The {what} of {method} are an empty list.")
        if len(set(found)) < len(found):
            raise ValueError(f"The {what} of {method} are not all different: {list(found)}.")
        return found

    @classmethod
    def read(cls, path: str | Path, root: str | None = None) -> "StudyPlan":
        """The plan of a file.

        Args:
            path: Of the file.
            root: In place of the plan's own.

        Raises:
            ValueError: If it cannot be read, or is wrong.
        """
        content = read_yaml(path)
        selection = construct("selection", Measurement, content.get("selection") or {})
        evaluation = [construct("evaluation", Measurement, each) for each in content.get("evaluation") or ()]
        where = {"root": root} if root is not None else {}
        return construct("study", cls, content | where | {"selection": selection, "evaluation": evaluation})
