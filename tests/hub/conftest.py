"""The test double of the Hub in place of the Hub, and a folder as training leaves it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub.hub_double import HubDouble, trained_folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """The Hub of this process, with a token for it and an empty cache."""
    with HubDouble(tmp_path / "hub").serving() as double:
        double.stand_in(monkeypatch, tmp_path / "home")
        yield double


@pytest.fixture
def folder(tiny_model: Any, tiny_processor: Any, tmp_path: Path) -> Path:
    """A model in several shards with its processor and recipe, and what does not go to the Hub."""
    return trained_folder(tmp_path / "nano", tiny_model, tiny_processor)
