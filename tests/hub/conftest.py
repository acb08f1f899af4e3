"""The test double of the Hub in place of the Hub, and a folder as training leaves it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from robust_clip.models import RobustCLIPModel
from tests.hub.hub_answers import TOKEN
from tests.hub.hub_double import HubDouble


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """The double, which huggingface_hub of this process takes for the Hub, with an empty cache and a token."""
    with HubDouble(tmp_path / "hub_files").serving() as double:
        template = double.url + "/{repo_id}/resolve/{revision}/{filename}"
        settings = {"ENDPOINT": double.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_OFFLINE": False}
        settings |= {"HF_HUB_DISABLE_XET": True, "HF_HUB_CACHE": str(tmp_path / "hub_cache")}
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", double.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield double


@pytest.fixture
def folder(tmp_path: Path, tiny_model: RobustCLIPModel, tiny_processor: Any) -> Path:
    """A model in several shards with its processor and recipe, and what does not go to the Hub."""
    path = tmp_path / "trained"
    tiny_model.save_pretrained(path, max_shard_size="15KB")
    tiny_processor.save_pretrained(path)
    (path / "recipe.yaml").write_text("objective: tecoa\n")
    (path / "training_args.bin").write_bytes(b"a pickle")
    (path / "checkpoint-5").mkdir()
    (path / "checkpoint-5" / "model.safetensors").write_bytes(b"")
    return path
