"""A checkpoint that the Hub has not, or a Hub that does not answer: it is asked once."""

import time

import pytest
from huggingface_hub import constants

from robust_clip.models import RobustCLIPModel, load_checkpoint, presence
from robust_clip.models.prompt_files import find_file
from tests.hub.hub_answers import Repository


@pytest.fixture
def questions(hub, monkeypatch):
    """Repositories that the Hub is asked about, one for each request."""
    asked, answer = [], hub.repository
    monkeypatch.setattr(hub, "repository", lambda repo, token: asked.append(repo) or answer(repo, token))
    return asked


@pytest.mark.parametrize("load", [load_checkpoint, RobustCLIPModel.from_pretrained])
def test_what_the_hub_has_not_is_asked_for_once(load, questions):
    with pytest.raises(ValueError, match="No checkpoint 'someone/nothing': no such folder, and the Hub has none"):
        load("someone/nothing")
    assert questions == ["someone/nothing"]


def test_a_hub_that_does_not_answer_is_asked_once(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(ValueError, match="no such folder, and the Hub cannot be asked for it"):
        load_checkpoint("someone/nothing")
    assert time.monotonic() - begun < 3


def test_what_was_downloaded_is_loaded_without_asking_whether_it_is_there(hub, folder, monkeypatch):
    files = {file.name: hub.keep(file.read_bytes()) for file in folder.iterdir() if file.is_file()}
    hub.repositories["owner/nano"] = Repository(commits={"c" * 40: files}, branches={"main": "c" * 40})
    model, _ = load_checkpoint("owner/nano")
    monkeypatch.setattr(presence, "_ask", lambda *_: pytest.fail("the Hub was asked"))
    assert load_checkpoint("owner/nano")[0].config.to_dict() == model.config.to_dict()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_file("owner/nano", "config.json")
    assert load_checkpoint("owner/nano")[0].config.to_dict() == model.config.to_dict()
