"""Images of known kinds, and a cache of `datasets` that goes away with the tests."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets_cache"))
        yield


def picture(width=16, height=None, mode="RGB", seed=0):
    """A noisy image in any of Pillow's modes."""
    random = np.random.default_rng(seed)
    array = random.integers(0, 256, (height or width, width, 3), dtype=np.uint8)
    return Image.fromarray(array).convert(mode)


def encoded(image, **options):
    """What an undecoded `datasets.Image` cell holds."""
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **options})
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def example():
    """Function from an image, or an undecoded cell, to an example as an `ImageDataset` gives it."""

    def make(image, index=0, label=0, **more):
        cell = encoded(image) if isinstance(image, Image.Image) else image
        common = {"label": label, "epoch": 0, "may_flip": True, "source": f"pictures/test row {index}"}
        return {"image": cell, "index": index, **common, **more}

    return make
