"""Which code made a number, beyond its version: the commit, where the package runs from a checkout of git."""

import subprocess
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


@cache
def commit_suffix(package: Path = _PACKAGE) -> str:
    """What a version of the code in a folder ends in: `+g` and the last commit that changed it, or nothing.

    As PEP 440 writes what a version alone does not tell. `.changed` follows where the folder differs from that commit.
    Commits that change other folders, such as tables of results, do not count.

    Args:
        package: The folder; only where the one above it is the root of a checkout there is a commit.
    """
    if not (package.parent / ".git").exists():
        return ""
    commit = _git(package, "log", "-1", "--abbrev=8", "--format=%h")
    changed = _git(package, "status", "--porcelain")
    return f"+g{commit}{'.changed' if changed else ''}" if commit else ""


def _git(package: Path, *arguments: str) -> str:
    """What git prints of a folder; nothing where there is no git, or it refuses."""
    command = ["git", "-C", str(package.parent), *arguments, "--", package.name]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
