"""Where class names come from, and what is done to them before they stand in a sentence."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets

ASSETS = Path(__file__).parent / "assets"


def is_wordnet_id(name: object) -> bool:
    """Whether a class name is one of WordNet's identifiers, as folders of ImageNet are called.

    >>> is_wordnet_id("n01443537"), is_wordnet_id("goldfish")
    (True, False)
    """
    return isinstance(name, str) and re.fullmatch(r"n\d{8}", name) is not None


def clean_class_name(name: str) -> str:
    """A class name as the papers of the TeCoA family put it into a sentence.

    Lower case, with spaces for `_`, `-` and `/`. From the folder names of Caltech-256, the number in front and the
    `-101` of what it has in common with Caltech-101 go too. Source: `refine_classname` and `Caltech256` in
    https://github.com/cvlab-columbia/ZSRobust4FoundationModel.

    >>> clean_class_name("American_pit-bull/terrier")
    'american pit bull terrier'
    >>> clean_class_name("015.bonsai-101")
    'bonsai'
    """
    name = re.sub(r"^\d{3}\.|-101$", "", name)
    return re.sub(r"[_/-]", " ", name).lower().strip()


def split_lines(text: str) -> list[str]:
    """The names in a `classnames.txt`, in label order; one that is missing stays as an empty line.

    >>> split_lines("cat" + chr(10) + "dog " + chr(10) * 2)
    ['cat', 'dog']
    """
    return [line.strip() for line in text.rstrip().splitlines()]


@dataclass(frozen=True)
class ClassNames:
    """How the class names of a data set are found: by default, they are those that its source gives.

    At most one of `listed`, `column`, `repository` and `wordnet` is set.

    Args:
        count: How many there must be.
        listed: The names themselves, in label order.
        column: Text column that holds the name of each image's class.
        repository: Hub id of another data set with the same labels, whose `classnames.txt` is used.
        wordnet: File of the package with a WordNet id and a name a line, for sources that name classes by such ids.
        cleaned: Whether names go through `clean_class_name`. Not for names that were written for prompts.
    """

    count: int | None = None
    listed: tuple[str, ...] = ()
    column: str | None = None
    repository: str | None = None
    wordnet: str | None = None
    cleaned: bool = False

    def resolve(
        self,
        found: Sequence[str] | None,
        rows: datasets.Dataset,
        label: str | None,
        read: Callable[[str], list[str] | None],
    ) -> list[str] | None:
        """The names in label order.

        Args:
            found: Names that the source gives, if it does.
            rows: The rows, for names in a column.
            label: Their label column.
            read: Function from a Hub id to the lines of its `classnames.txt`.

        Raises:
            ValueError: If there are too few or too many names, if names cannot be matched with labels, or if a
                WordNet id is unknown.
        """
        names = list(found) if found else None
        if self.listed:
            names = list(self.listed)
        elif self.column and label:
            names = _names_in_column(rows, label, self.column)
        elif self.repository:
            names = _names_by_position(found, read(self.repository), self.repository)
        elif self.wordnet and names and any(map(is_wordnet_id, names)):
            names = [_wordnet_name(name, self.wordnet) for name in names]
        if names and self.count and len(names) != self.count:
            raise ValueError(f"there are {len(names)} class names where there must be {self.count}: {names[:3]}, ...")
        return [clean_class_name(name) for name in names] if names and self.cleaned else names


def _names_in_column(rows: datasets.Dataset, label: str, column: str) -> list[str]:
    pairs = sorted(set(zip(rows[label][:], rows[column][:], strict=True)))
    labels = [number for number, _ in pairs]
    if labels != list(range(len(labels))):
        raise ValueError(
            f"class names cannot be read off column {column!r}: each label from 0 up must come with one name, got "
            f"{pairs[:4]}, ...; pass class_names."
        )
    return [name for _, name in pairs]


def _names_by_position(found: Sequence[str] | None, names: list[str] | None, repository: str) -> list[str]:
    if names is None:
        raise ValueError(f"the class names are those of {repository}, which has no classnames.txt; pass class_names.")
    if found and (len(found) != len(names) or (is_wordnet_id(found[0]) and list(found) != sorted(found))):
        raise ValueError(
            f"the class names of {repository} belong to {len(names)} labels in the order of their WordNet ids; the "
            f"source has {len(found)} labels, {list(found)[:3]}, ...; pass class_names."
        )
    return names


def _wordnet_name(identifier: str, file: str) -> str:
    lines = (ASSETS / file).read_text(encoding="utf-8").splitlines()
    table = dict(line.split(" ", maxsplit=1) for line in lines)
    if identifier not in table:
        raise ValueError(f"class {identifier!r} is none of the {len(table)} WordNet ids in {file}; pass class_names.")
    return table[identifier]
