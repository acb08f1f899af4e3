"""Examples kept beside a row: adversarial images and texts, to be looked at.

The folder `examples/` beside `row.json` holds `examples.json` and the PNG files that it names. The JSON is a list; an
entry with a `text` has the fields of `TextExample`, any other those of `ImageExample`.
"""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import SequenceMatcher
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

FOLDER, LIST = "examples", "examples.json"


@dataclass(frozen=True)
class ImageExample:
    """One image before and after an attack.

    Args:
        index: Its row in the split.
        label: True class.
        clean_prediction: Class predicted on the clean image.
        adversarial_prediction: Class predicted on the adversarial image.
        attack: Name of the attack, from `Protocol.attack_names`.
        clean: Name of the PNG of the clean image; a name alone, of a file in the same folder.
        adversarial: Name of the PNG of the adversarial image, which is of the same size.
        label_name: Name of the true class.
        clean_name: Name of the class predicted on the clean image.
        adversarial_name: Name of the class predicted on the adversarial image.
    """

    index: int
    label: int
    clean_prediction: int
    adversarial_prediction: int
    attack: str
    clean: str
    adversarial: str
    label_name: str | None = None
    clean_name: str | None = None
    adversarial_name: str | None = None


@dataclass(frozen=True)
class TextExample:
    """One text, such as a class prompt, before and after an attack.

    Args:
        text: As it was.
        attacked_text: What the attack made of it.
    """

    text: str
    attacked_text: str


def read_examples(folder: str | Path) -> list[ImageExample | TextExample]:
    """The examples beside a row; none if there is no such folder.

    Args:
        folder: That of the row.

    Raises:
        ValueError: If the list cannot be read, or an entry is not an example.
    """
    path = Path(folder) / FOLDER / LIST
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path} holds {type(entries).__name__}, where a list of examples is expected")
    return [_read_entry(entry, f"entry {place} of {path}") for place, entry in enumerate(entries)]


def _read_entry(entry: Any, where: str) -> ImageExample | TextExample:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {entry!r}, where an object is expected")
    kind: Any = TextExample if "text" in entry else ImageExample
    types: dict[str, Any] = {field.name: field.type for field in fields(kind)}
    try:
        example: ImageExample | TextExample = kind(**entry)
    except TypeError as error:
        raise ValueError(f"{where} is not an example ({error}); the fields are {', '.join(types)}") from error
    for name, wanted in types.items():
        value = getattr(example, name)
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ValueError(f"{where}: {name} must be {getattr(wanted, '__name__', wanted)}, got {value!r}")
    for name in ("clean", "adversarial") if isinstance(example, ImageExample) else ():
        file = getattr(example, name)
        if "/" in file or "\\" in file or not file.lower().endswith(".png"):
            raise ValueError(f"{where}: {name} must be the name of a PNG in the same folder, got {file!r}")
    return example


@dataclass(frozen=True)
class Picture:
    """An image example as an HTML page embeds it, each image a data URI.

    Args:
        clean: The clean image.
        perturbation: The difference around grey, magnified to the full range.
        adversarial: The adversarial image.
        factor: How much the perturbation is magnified; 0 where there is none.
        width: Of the images, in pixels.
    """

    clean: str
    perturbation: str
    adversarial: str
    factor: float
    width: int


def picture(folder: str | Path, example: ImageExample) -> Picture:
    """Read the two images of an example.

    Args:
        folder: That of the row.
        example: Names them.

    Raises:
        ValueError: If one cannot be read, or they differ in size.
    """
    paths = [Path(folder) / FOLDER / name for name in (example.clean, example.adversarial)]
    clean, adversarial = (_read_image(path) for path in paths)
    if clean.shape != adversarial.shape:
        sizes = " and ".join(f"{array.shape[1]}x{array.shape[0]}" for array in (clean, adversarial))
        raise ValueError(f"{paths[0]} and {paths[1].name} must have one size, got {sizes}")
    change = adversarial.astype(np.int16) - clean
    largest = int(np.abs(change).max())
    factor = 127.0 / largest if largest else 0.0
    magnified = np.round(128 + factor * change).astype(np.uint8)
    return Picture(_data_uri(clean), _data_uri(magnified), _data_uri(adversarial), factor, clean.shape[1])


def word_changes(text: str, attacked_text: str) -> list[tuple[str, bool]]:
    """The attacked text in pieces, each with whether it differs from the text.

    >>> word_changes("a photo of a dog", "a photo of a doge")
    [('a photo of a', False), ('doge', True)]
    """
    before, after = text.split(), attacked_text.split()
    blocks = SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
    kept = {block.b + offset for block in blocks for offset in range(block.size)}
    pieces = groupby(enumerate(after), key=lambda word: word[0] not in kept)
    return [(" ".join(word for _, word in words), changed) for changed, words in pieces]


def _read_image(path: Path) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a PNG that can be read ({error})") from error


def _data_uri(array: npt.NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def names_of(example: ImageExample) -> Sequence[str]:
    """True class, and those predicted on the clean and on the adversarial image, by name where names are known."""
    numbers = (example.label, example.clean_prediction, example.adversarial_prediction)
    names = (example.label_name, example.clean_name, example.adversarial_name)
    return [name or f"class {number}" for name, number in zip(names, numbers, strict=True)]
