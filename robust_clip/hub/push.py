"""A folder of weights to the Hub, in one commit: either all of it can be seen there, or nothing."""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is its httpx's, of whatever name
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# Made by the Hub itself.
_OF_THE_HUB = {".gitattributes"}


def push_folder(
    files: Mapping[str, Path],
    repo_id: str,
    *,
    known: Iterable[str] = (),
    private: bool | None = None,
    branch: str = "main",
    replace: bool = False,
    message: str = "Upload by robust-clip",
) -> str:
    """Upload files to a model repository, which is made if it is not there.

    Large files go first, and nothing refers to them before the one commit at the end. Started again after an
    interruption, those that have arrived are not sent again.

    Args:
        files: By their path in the repository.
        repo_id: `owner/name`; without an owner it is the user whom the token belongs to.
        known: Paths that may lie in the repository without being replaced.
        private: Whether a new repository is; the Hub's own default if `None`. An old one stays as it is.
        branch: To commit to; made from `main` if it is not there.
        replace: Remove files of the repository that are not among `files`, in the same commit.
        message: Of the commit.

    Returns:
        The address of the repository, or of the branch.

    Raises:
        ValueError: If there is no token or it may not write there, the repository holds other files and `replace` is
            not set, the card's metadata are refused, or the Hub cannot be reached.
    """
    if get_token() is None:
        raise ValueError("No token to write to the Hub: log in by `hf auth login`, or set HF_TOKEN.")
    api = HfApi(library_name="robust-clip")
    try:
        repo_id = full_name(repo_id)
        head, found = _look(api, repo_id, branch)
        others = sorted(found - files.keys() - _OF_THE_HUB - (set() if replace else set(known)))
        if others and not replace:
            raise ValueError(
                f"{repo_id} holds files that are none of this model's: {_listed(others)}. Give another repository, or "
                "--replace to remove them."
            )
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        if branch != "main":
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        additions = [CommitOperationAdd(name, path) for name, path in files.items()]
        deletions = [CommitOperationDelete(name, is_folder=False) for name in others]
        with warnings.catch_warnings():
            # That the records of measurements are parquet.
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            # A commit that somebody else made meanwhile is not overwritten.
            api.create_commit(
                repo_id, [*additions, *deletions], commit_message=message, revision=branch, parent_commit=head
            )
    except (HTTPError, RuntimeError, OSError) as error:
        raise ValueError(_explained(error, repo_id)) from error
    return str(url) if branch == "main" else f"{url}/tree/{branch}"


def full_name(repo_id: str) -> str:
    """`owner/name` of a repository; without an owner it is the user whom the token belongs to.

    Raises:
        ValueError: If the Hub does not know the token, or cannot be reached.
    """
    if "/" in repo_id:
        return repo_id
    try:
        return f"{HfApi(library_name='robust-clip').whoami()['name']}/{repo_id}"
    except (HTTPError, RuntimeError, OSError) as error:
        raise ValueError(_explained(error, repo_id)) from error


def _look(api: HfApi, repo_id: str, branch: str) -> tuple[str | None, set[str]]:
    """The last commit of a branch and the files in it; of `main` where the branch is still to be made."""
    for revision in dict.fromkeys((branch, "main")):
        try:
            info = api.model_info(repo_id, revision=revision)
        except RevisionNotFoundError:
            continue
        except RepositoryNotFoundError:
            break
        return info.sha, {file.rfilename for file in info.siblings or ()}
    return None, set()


def _explained(error: Exception, repo_id: str) -> str:
    """What happened, in one line, and what to do."""
    cause: BaseException = error
    while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
        cause = cause.__cause__  # huggingface_hub wraps what went wrong with one file
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    told = " ".join(str(cause).split())
    if status in (401, 403, 404):
        advice = "use one with the role write, by `hf auth login` or HF_TOKEN"
        return f"The token may not write to {repo_id}: {advice}. ({told})"
    if status in (409, 412):
        return f"{repo_id} was changed meanwhile, so nothing was committed: look at it, then push again. ({told})"
    what = f"{type(cause).__name__}: {told}" if told else type(cause).__name__
    return (
        f"The push to {repo_id} did not go through ({what}). Nothing of it can be seen there; give the same command "
        "again, and what has arrived is not sent twice."
    )


def _listed(names: list[str], most: int = 10) -> str:
    """The first of a list, and how many more there are.

    >>> _listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
