"""Several captions for one image, as the columns of captioned data sets hold them."""

from typing import Any

import datasets

# What these columns are called, the first that is there counts. CLIP_benchmark's repositories have `txt`.
CAPTION_COLUMNS = ("text", "caption", "captions", "txt")


def captions_in(value: Any, column: str) -> tuple[str, ...]:
    r"""The captions in a cell: of a list each item, of `txt` each line, of other text the whole.

    CLIP_benchmark writes one caption a line, and a line break within a caption as a backslash and an n.

    >>> captions_in("a dog\nA dog\\nin snow.", "txt")
    ('a dog', 'A dog in snow.')
    >>> captions_in(["a dog", "snow"], "captions")
    ('a dog', 'snow')
    """
    if value is None:
        return ()
    if not isinstance(value, str):
        return tuple(value)
    if column != "txt":
        return (value,)
    return tuple(line.replace(r"\n", " ").strip() for line in value.splitlines())


def read_captions(rows: datasets.Dataset, column: str, source: str) -> tuple[tuple[str, ...], ...]:
    """The captions of every image.

    Args:
        rows: N rows.
        column: Column of text, or of lists of text.
        source: Data set and split, for the error.

    Raises:
        ValueError: If an image has no caption, or one that is not text or is empty.
    """
    captions = tuple(captions_in(value, column) for value in rows[column][:])
    for row, texts in enumerate(captions):
        bad = [text for text in texts if not isinstance(text, str) or not text.strip()]
        if bad or not texts:
            what = f"the caption {bad[0]!r} in" if bad else "there is no caption in"
            raise ValueError(
                f"{source} row {row}: {what} column {column!r}. Each image needs captions that are not empty; drop "
                "the row or mend it."
            )
    return captions
