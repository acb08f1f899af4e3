"""The commit that a number was made by."""

import shutil
import subprocess

import pytest

from robust_clip.evaluation.own_version import commit_suffix
from robust_clip.evaluation.records import library_versions


@pytest.fixture
def package(tmp_path):
    """A folder of code in a repository with a commit, and a file beside it."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = tmp_path / "checkout" / "package"
    folder.mkdir(parents=True)
    (folder / "code.py").write_text("one = 1")
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def git(folder, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder.parent), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def commit(folder):
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "one")


def suffix_of(folder):
    return commit_suffix.__wrapped__(folder)


def test_the_last_commit_that_changed_the_package(package):
    first = git(package, "rev-parse", "--short=8", "HEAD")
    assert suffix_of(package) == f"+g{first}"
    (package.parent / "table.md").write_text("50.0")
    commit(package)
    assert suffix_of(package) == f"+g{first}"
    (package / "code.py").write_text("one = 2")
    assert suffix_of(package) == f"+g{first}.changed"
    commit(package)
    second = git(package, "rev-parse", "--short=8", "HEAD")
    assert suffix_of(package) == f"+g{second}" != f"+g{first}"


def test_without_a_commit_the_version_stands_alone(package, tmp_path, monkeypatch):
    inside = package.parent / "site-packages" / "package"
    inside.mkdir(parents=True)
    assert suffix_of(inside) == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert suffix_of(package) == ""


def test_versions_of_rows_end_in_it():
    assert library_versions()["robust-clip"].endswith(commit_suffix())
