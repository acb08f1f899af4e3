"""A few broken images and attacked prompts, kept beside the row while an evaluation runs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image
from torch import Tensor

from .examples import FOLDER, LIST, ImageExample, TextExample, read_examples
from .records import Sample, write_text
from .run_folder import advice


class Gallery:
    """The examples of one evaluation, the first images to fall; what an earlier, killed run kept counts.

    Args:
        folder: That of the row; `None` keeps nothing.
        most: Images, and likewise texts, that are kept.
        class_names: In label order.
    """

    def __init__(self, folder: str | Path | None, most: int, class_names: Sequence[str]) -> None:
        self._folder = Path(folder) / FOLDER if folder is not None and most > 0 else None
        self._most = most
        self._names = class_names
        known = read_examples(folder) if folder is not None and self._folder else []
        self._images = [example for example in known if isinstance(example, ImageExample)]
        self._texts = [example for example in known if isinstance(example, TextExample)]

    def hang_texts(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Keep the first texts that an attack changed, each with what became of it."""
        if self._folder and not self._texts:
            changed = [TextExample(text, attacked) for text, attacked in pairs if text != attacked]
            self._texts = changed[: self._most]
            self._write()

    def hang(self, sample: Sample, clean: Tensor, adversarial: Tensor) -> None:
        """Keep an image `(3, H, W)` in [0, 1] that an attack broke, unless there are enough; rounded to 8 bits."""
        predictions = sample.label, sample.clean_prediction, sample.adversarial_prediction
        if not self._folder or len(self._images) >= self._most or None in predictions or sample.broken_by is None:
            return
        if sample.index in {example.index for example in self._images}:  # hung by a run that was killed right then
            return
        label, before, after = (int(prediction or 0) for prediction in predictions)
        files = [f"{sample.index}-{which}.png" for which in ("clean", "adversarial")]
        with advice(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for file, image in zip(files, (clean, adversarial), strict=True):
                array = (image.detach().float().cpu() * 255).round().byte().permute(1, 2, 0).numpy()
                Image.fromarray(array).save(self._folder / file)
        names = [self._names[number] for number in (label, before, after)]
        self._images.append(ImageExample(sample.index, label, before, after, sample.broken_by, *files, *names))
        self._write()

    def _write(self) -> None:
        if self._folder is None:
            return
        kept: list[ImageExample | TextExample] = [*self._images, *self._texts]
        content = [asdict(example) for example in kept]
        with advice(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_text(self._folder / LIST, json.dumps(content, indent=2) + "\n")
