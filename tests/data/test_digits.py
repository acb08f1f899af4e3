"""Scikit-learn's handwritten digits, as a data set."""

import builtins

import numpy as np
import pytest
from sklearn.datasets import load_digits

from robust_clip.data import PixelCollator, load_image_dataset


def test_the_splits_share_the_digits_out():
    """Every third image is held out; all grey levels survive the way through PNG."""
    images, labels = load_digits(return_X_y=True)
    found = {}
    for split, rows in (("test", range(0, 1797, 3)), ("train", [row for row in range(1797) if row % 3])):
        dataset = load_image_dataset("digits", split)
        batch = PixelCollator(64)([dataset[position] for position in range(len(dataset))])
        assert batch["labels"].tolist() == labels[list(rows)].tolist()
        expected = np.round(images[list(rows)].reshape(-1, 8, 8) * 255 / 16)
        for channel in range(3):
            np.testing.assert_array_equal((batch["pixels"][:, channel] * 255).round().numpy(), expected)
        found[split] = len(dataset)
    assert found == {"test": 599, "train": 1198}


def test_the_digits_have_names_and_a_sentence_of_their_own():
    dataset = load_image_dataset("digits")
    assert dataset.class_names == [str(digit) for digit in range(10)]
    assert dataset[0]["captions"] == ('a photo of the number: "0".',)
    assert dataset[0]["may_flip"] is False


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="digits has no split 'valid'; it has train, test"):
        load_image_dataset("digits", "valid")


def test_without_scikit_learn_one_is_told_what_to_install(monkeypatch):
    original = builtins.__import__

    def without_sklearn(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_sklearn)
    with pytest.raises(ImportError, match=r"pip install 'robust-clip\[quickstart\]'"):
        load_image_dataset("digits")
