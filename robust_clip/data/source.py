"""The `data` section of a recipe: what to train on, and how its images become pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from robust_clip.suggestions import instead

from .collator import Augmentation, PixelCollator
from .images import ImageDataset
from .loading import load_image_dataset
from .mixture import Mixture
from .prompts import templates_for
from .selection import few_shot, held_out


@dataclass(frozen=True)
class DataSource:
    """A data set, or several with the number of times an epoch sees each.

    Args:
        name: Row name, Hub id or path; or a mapping of such to repeats for training on captions.
        root: Folder looked into before the Hub.
        split: Which split. `train:validation` is every tenth image of each class of `train`, and `train:fit` the
            rest.
        classes: Names of the classes to keep, or a range of labels such as `"0:7"` or `"7:"`; all by default.
        per_class: Few-shot: so many images of each class, drawn with seed 0; all by default.
        templates: `single` (the papers' template of the data set), `ensemble`, `clip`, or a list of templates.
        resolution: Grid of the perturbation: `native` or `model`, as `PixelCollator`.
        on_bad_image: `raise` or `skip`.
        augmentation: Fields of `Augmentation`, or nothing.

    Raises:
        ValueError: If a value or a field of the augmentation is unknown; nothing is loaded before that is checked.
    """

    name: str | Mapping[str, int]
    root: str | None = None
    split: str = "train"
    classes: str | Sequence[str] | None = None
    per_class: int | None = None
    templates: str | Sequence[str] = "single"
    resolution: str = "native"
    on_bad_image: str = "raise"
    augmentation: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        known = [field.name for field in fields(Augmentation)]
        unknown = [key for key in self.augmentation or {} if key not in known]
        if unknown:
            raise ValueError(f"Unknown key {unknown[0]!r} in augmentation{instead(unknown[0], known)}")
        if not isinstance(self.classes, str | None) and not (
            isinstance(self.classes, Sequence) and all(isinstance(name, str) for name in self.classes)
        ):
            raise ValueError(
                f'classes must be a list of strings or a range such as "0:7", got {self.classes!r}; put quotes around '
                "what YAML would read as a number."
            )
        self.collator(image_size=1, seed=0)
        if isinstance(self.templates, str):
            templates_for("", self.templates)

    def load(self) -> ImageDataset | Mixture:
        """Loads the data set or the mixture.

        Raises:
            ValueError: As `load_image_dataset`.
        """
        if isinstance(self.name, Mapping):
            return Mixture([self._load_one(name) for name in self.name], list(self.name.values()))
        return self._load_one(self.name)

    def collator(self, image_size: int, seed: int) -> PixelCollator:
        """The collator for a model whose input is `image_size` pixels square."""
        augmentation = Augmentation(**self.augmentation) if self.augmentation is not None else None
        return PixelCollator(image_size, self.resolution, self.on_bad_image, augmentation, seed)

    def _load_one(self, name: str) -> ImageDataset:
        split, _, part = self.split.partition(":")
        dataset = load_image_dataset(name, split, root=self.root)
        templates = templates_for(dataset.name, self.templates) if isinstance(self.templates, str) else self.templates
        dataset = dataset.with_templates(templates)
        if self.classes:
            dataset = dataset.keep_classes(_chosen(self.classes, dataset))
        dataset = held_out(dataset, part) if part else dataset
        return dataset if self.per_class is None else few_shot(dataset, self.per_class)


def _chosen(classes: str | Sequence[str], dataset: ImageDataset) -> Sequence[str]:
    """Class names, where a text is a range of labels."""
    if not isinstance(classes, str):
        return classes
    names = dataset.class_names or []
    try:
        start, stop = (int(end) if end else None for end in classes.split(":"))
    except ValueError as error:
        raise ValueError(f"classes must be a list of names or a range such as 0:7, got {classes!r}.") from error
    if not names[start:stop]:
        raise ValueError(f"The range {classes!r} holds none of the {len(names)} classes of {dataset.name}.")
    return names[start:stop]
