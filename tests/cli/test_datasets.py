"""`robust-clip datasets`, on folders laid out as the repositories are."""

import argparse
from pathlib import Path

import pytest

from robust_clip.cli import datasets as command
from robust_clip.data import DATASETS, load_image_dataset
from tests.data.mirror import build, shard


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["datasets", *arguments])
    return int(args.run(args))


def test_list_says_what_a_folder_of_data_sets_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("photos", "drawings"):
        (tmp_path / name).mkdir()
    assert run("list", "--root", str(tmp_path)) == 0
    assert capsys.readouterr().out.endswith(f"\n{tmp_path} holds drawings, photos.\n")
    with pytest.raises(ValueError, match="nothere' is not there"):
        run("list", "--root", str(tmp_path / "nothere"))


def test_list_has_a_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["name", "repository"]
    assert [line.split()[0] for line in lines] == sorted(DATASETS)
    (flowers,) = [line for line in lines if line.startswith("flowers102")]
    assert "clip-benchmark/wds_vtab-flowers" in flowers
    assert flowers.endswith("repository, columns")


@pytest.mark.parametrize(
    ("name", "arguments", "facts"),
    [
        ("dtd", (), ["47: Thing-0 x, Thing-1 x", "A surface with a {} texture.", "test[:3]", "20x16 RGB"]),
        ("flickr8k", (), ["2: A dog in snow., Two dogs for the first image", "classes       none", "jpg, txt"]),
        ("caltech256", (), ["257: some thing a0", "test, 263 examples read", "CC-BY-4.0"]),
        ("imagenet_c", ("--split", "fog/5"), ["1000: Thing-0 x", "fog/5[:3]"]),
    ],
)
def test_check_says_what_a_row_turned_out_to_be(
    name: str, arguments: tuple[str, ...], facts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(name, tmp_path)
    assert run("check", name, "--root", str(tmp_path), "--examples", "3", *arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{name} holds.\n")
    assert [fact for fact in facts if fact not in printed] == []


def test_check_takes_no_other_folder_of_that_name(coloured_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "food101").symlink_to(coloured_folder)
    assert len(load_image_dataset("food101", root=str(tmp_path))) == 24
    with pytest.raises(ValueError, match="holds food101 under its own name, .* row of ethz/food101: leave --root"):
        run("check", "food101", "--root", str(tmp_path))


def test_check_needs_no_hub_for_what_comes_with_a_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "digits") == 0
    assert "10: 0, 1, 2, 3, 4, ..." in capsys.readouterr().out


def test_a_row_that_does_not_hold_is_an_error_with_the_reason(tmp_path: Path) -> None:
    build("dtd", tmp_path)
    folder = tmp_path / "clip-benchmark" / "wds_vtab-dtd"
    names = (folder / "classnames.txt").read_text().splitlines()
    (folder / "classnames.txt").write_text("\n".join(names[1:]))
    with pytest.raises(ValueError, match="dtd: there are 46 class names where there must be 47"):
        run("check", "dtd", "--root", str(tmp_path))
    with pytest.raises(ValueError, match=r"No data set 'dtd2' in the table; did you mean dtd\?"):
        run("check", "dtd2")
    with pytest.raises(ValueError, match="'ethz/food101' cannot be reached on the Hub"):
        run("check", "food101", "--root", str(tmp_path))


def test_an_image_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    build("eurosat", tmp_path)
    shard(tmp_path / "clip-benchmark" / "wds_vtab-eurosat" / "test" / "0.tar", [{"webp": b"<html>", "cls": b"0"}])
    with pytest.raises(ValueError, match=r"eurosat/test row 0: the image cannot be read"):
        run("check", "eurosat", "--root", str(tmp_path))
