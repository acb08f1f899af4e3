"""Checkpoints that come with the package."""

from importlib.resources import files
from pathlib import Path

PACKAGED = ("nano_clip",)


def packaged_checkpoint(name: str) -> str:
    """The folder of a packaged checkpoint; any other name, path or Hub id is given back as it is.

    >>> packaged_checkpoint("openai/clip-vit-base-patch32")
    'openai/clip-vit-base-patch32'
    >>> packaged_checkpoint("nano_clip").endswith("nano_clip")
    True
    """
    return str(files("robust_clip") / "data" / "assets" / name) if name in PACKAGED else name


def public_name(path: str) -> str:
    """The name of a packaged checkpoint for its folder, the whole path of another folder; a Hub id as it is.

    >>> public_name(packaged_checkpoint("nano_clip")), public_name("openai/clip-vit-base-patch32")
    ('nano_clip', 'openai/clip-vit-base-patch32')
    """
    whole = str(Path(path).resolve()) if path and Path(path).is_dir() else path
    return next((name for name in PACKAGED if packaged_checkpoint(name) == path), whole)
