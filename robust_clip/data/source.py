"""The `data` section of a recipe: what to train on, and how its images become pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .collator import Augmentation, PixelCollator
from .datasets import ImageDataset, load_image_dataset
from .mixture import Mixture
from .prompts import templates_for


@dataclass(frozen=True)
class DataSource:
    """A data set, or several with the number of times an epoch sees each.

    Args:
        name: Row name, Hub id or path; or a mapping of such to repeats for training on captions.
        root: Folder looked into before the Hub.
        split: Which split.
        classes: Names of the classes to keep; all by default.
        templates: `single` (the papers' template of the data set), `ensemble`, or a list of templates.
        resolution: Grid of the perturbation: `native` or `model`, as `PixelCollator`.
        on_bad_image: `raise` or `skip`.
        augmentation: Fields of `Augmentation`, or nothing.
    """

    name: str | Mapping[str, int]
    root: str | None = None
    split: str = "train"
    classes: Sequence[str] | None = None
    templates: str | Sequence[str] = "single"
    resolution: str = "native"
    on_bad_image: str = "raise"
    augmentation: Mapping[str, Any] | None = None

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
        dataset = load_image_dataset(name, self.split, root=self.root)
        templates = templates_for(dataset.name, self.templates) if isinstance(self.templates, str) else self.templates
        dataset = dataset.with_templates(templates)
        return dataset.keep_classes(self.classes) if self.classes else dataset
