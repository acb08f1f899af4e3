"""Parts of a measurement of recall on disk."""

import resource

import pytest
import torch

from robust_clip.attacks import PGD
from robust_clip.evaluation.retrieval_protocol import RetrievalProtocol
from robust_clip.evaluation.retrieval_records import RetrievalStore
from robust_clip.evaluation.retrieval_search import Attacked
from robust_clip.threat_model import ThreatModel


@pytest.fixture
def limited():
    """Lets no file grow beyond a kilobyte, as a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_costs_nothing_that_was_written(tmp_path, limited):
    protocol = RetrievalProtocol(image_attack=PGD(), threat_model=ThreatModel("linf", "1/255"))
    store = RetrievalStore(tmp_path, "photos", "test", protocol)
    store.begin({"model": {"id": "clip", "revision": "1"}, "seed": 0}, resume=False)
    attacked = Attacked([torch.rand(3, 8, 8), torch.rand(3, 9, 9)], ["a cat", "a dog"])
    store.write("images", 0, attacked, 1.5)
    limited()
    with pytest.raises(ValueError, match="cannot write to .* make room, then go on with --resume"):
        store.write("images", 2, attacked, 1.0)
    found, seconds = store.read("images", 0)
    assert (found.captions, seconds) == (attacked.captions, 1.5)
    assert all(torch.equal(*pair) for pair in zip(found.images, attacked.images, strict=True))
    assert store.read("images", 2) is None
