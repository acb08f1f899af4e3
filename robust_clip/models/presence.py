"""Whether a checkpoint that somebody names can be had at all, before anything else is read or asked for."""

import os
from functools import cache
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is its httpx's, of whatever name
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from robust_clip.suggestions import nearest

from .packaged import PACKAGED, packaged_checkpoint

# Seconds that the Hub may take to answer.
_PATIENCE = 10


class MissingCheckpointError(OSError, ValueError):
    """A checkpoint is not where it was said to be; an `OSError`, too, as transformers raises for it."""


def require_checkpoint(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    **_: object,
) -> None:
    """Refuses a checkpoint that is not there, at the cost of one question to the Hub, and of none for what is a path.

    Loading would ask for one file after the other, and for each again and again. What is in the cache of the Hub
    counts as there.

    Args:
        name: Folder, file, Hub id, `OWNER/NAME/FILE`, or the name of a packaged checkpoint.
        revision: Branch, tag or commit on the Hub.
        token: As `from_pretrained` takes it, and so are the rest; of these what says nothing here is passed over.
        cache_dir: Of the Hub.
        local_files_only: Whether the Hub may not be asked.

    Raises:
        MissingCheckpointError: If it is neither a folder nor a file, and looks like a path, is no Hub id or cannot be
            had there.
    """
    # Not at the top: the room of the Hub is built on this one.
    from robust_clip.hub.convert import WEIGHT_SUFFIXES, needs_conversion

    name = str(name)
    if Path(packaged_checkpoint(name)).exists():
        return
    owner, *rest = name.removeprefix("hf-hub:").split("/")
    repository = f"{owner}/{rest[0]}" if rest else owner
    if len(rest) == 1 and _in_cache(repository, cache_dir):
        return
    in_folder = len(rest) > 1 or name.endswith(WEIGHT_SUFFIXES)
    if name.startswith((".", "/", "~")) or (rest and in_folder and Path(name).parent.is_dir()):
        raise _missing(name, "no such folder")
    if len(rest) != 1:
        if not needs_conversion(name):
            raise _missing(name, "no such folder")
        if not rest or _in_cache(repository, cache_dir):
            return  # a published file by its name, for which the converter says where it can be had
    if local_files_only or constants.HF_HUB_OFFLINE:
        raise _missing(name, "no such folder, not in the cache of the Hub, and the Hub may not be asked")
    try:
        _ask(repository, revision, token, constants.ENDPOINT)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        why = "no such folder, and the Hub has none of that name and revision, or it is private and needs a token"
        raise _missing(name, why) from error
    except HfHubHTTPError:
        pass  # it answers, if not this: the download may fare better, or says what is wrong
    except (HTTPError, OSError, ValueError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise _missing(name, f"no such folder, and the Hub cannot be asked for it ({first})") from error


@cache
def _ask(repository: str, revision: str | None, token: str | bool | None, hub: str) -> None:
    """Asks the Hub at the address `hub`; what it has once is not asked for again."""
    HfApi(endpoint=hub).model_info(repository, revision=revision, token=token, timeout=_PATIENCE)


def _in_cache(repository: str, cache_dir: str | os.PathLike[str] | None) -> bool:
    """Whether anything of a repository has been downloaded."""
    # As huggingface_hub's repo_folder_name has it, which however refuses what is no Hub id.
    folder = f"models--{repository.replace('/', '--')}"
    return Path(cache_dir or constants.HF_HUB_CACHE, folder, "snapshots").is_dir()


def _missing(name: str, why: str) -> MissingCheckpointError:
    near = nearest(name, PACKAGED)
    meant = f"Did you mean {near[0]}? " if near else ""
    kinds = f"Packaged checkpoints: {', '.join(PACKAGED)}; a Hub id is owner/name."
    return MissingCheckpointError(f"No checkpoint {name!r}: {why}. {meant}{kinds}")
