"""The folder of data sets that is looked into before the Hub."""

import logging
from functools import cache
from pathlib import Path

from .datasets import DATASETS

logger = logging.getLogger(__name__)


def require_root(root: str | None) -> None:
    """Refuses a folder of data sets that is not there, since all that it was to hold would be asked of the Hub.

    Args:
        root: A folder, or `None` for none.

    Raises:
        ValueError: If it is no folder.
    """
    if root is not None and not Path(root).is_dir():
        what = "is a file" if Path(root).exists() else "is not there"
        raise ValueError(f"The folder of data sets {root!r} {what}; give one as root, or leave it out for the Hub.")


def names_in(root: str | None) -> list[str]:
    """What a folder of data sets seems to hold, in order: sub-folders, parquet files, `owner/name` of known ones.

    Raises:
        ValueError: As `require_root`.
    """
    require_root(root)
    if root is None:
        return []
    found = [path for path in Path(root).iterdir() if not path.name.startswith(".")]
    known = [row.hub_id for row in DATASETS.values() if row.hub_id and Path(root, row.hub_id).is_dir()]
    owners = {hub_id.split("/")[0] for hub_id in known}
    names = [path.name for path in found if path.name not in owners and (path.is_dir() or path.suffix == ".parquet")]
    return sorted({*names, *known})


@cache
def say_not_in_root(root: str, name: str, hub_id: str) -> None:
    """Warns, once for each, that a data set comes from the Hub although there is a folder of data sets."""
    places = " or ".join(dict.fromkeys((name, hub_id)))
    logger.warning("The folder of data sets %s holds no %s: %s is read from the Hub.", root, places, hub_id)
