"""Examples kept while an evaluation runs."""

import numpy as np
import pytest
import torch
from PIL import Image

from robust_clip.evaluation import Sample, evaluate_robustness
from robust_clip.evaluation.examples import ImageExample, TextExample, picture, read_examples
from robust_clip.evaluation.gallery import Gallery

NAMES = ["red", "green"]


def broken(index):
    return Sample(index, 0, 0, 1, "1-pgd-cross_entropy")


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(3, 4, 4, generator=generator)
    return clean, (clean + 8 / 255).clamp(0, 1)


def test_the_first_broken_images_are_kept_to_eight_bits(tmp_path, images):
    gallery = Gallery(tmp_path, 2, NAMES)
    for index in (5, 3, 8):
        gallery.hang(broken(index), *images)
    gallery.hang(Sample(9, 0, 0, 0, withstood=1), *images)
    first, second = read_examples(tmp_path)
    assert first == ImageExample(
        5, 0, 0, 1, "1-pgd-cross_entropy", "5-clean.png", "5-adversarial.png", "red", "red", "green"
    )
    assert second.index == 3
    with Image.open(tmp_path / "examples" / "5-clean.png") as file:
        pixels = torch.tensor(np.asarray(file).copy()).permute(2, 0, 1) / 255
    assert (pixels - images[0]).abs().max() <= 0.5 / 255 + 1e-6
    assert picture(tmp_path, first).factor > 0


def test_a_run_that_was_killed_left_its_examples(tmp_path, images):
    Gallery(tmp_path, 2, NAMES).hang(broken(5), *images)
    later = Gallery(tmp_path, 2, NAMES)
    later.hang(broken(5), *images)  # hung, and killed before its sample was written
    later.hang(broken(3), *images)
    later.hang(broken(8), *images)
    assert [example.index for example in read_examples(tmp_path)] == [5, 3]


def test_texts_that_changed_are_kept(tmp_path):
    Gallery(tmp_path, 1, NAMES).hang_texts([("a cat", "a cat"), ("a dog", "a dig"), ("a cow", "a caw")])
    assert read_examples(tmp_path) == [TextExample("a dog", "a dig")]


@pytest.mark.parametrize("most", [0, 3])
def test_nothing_is_kept_unless_asked(tmp_path, images, most):
    gallery = Gallery(tmp_path if most == 0 else None, most, NAMES)
    gallery.hang(broken(5), *images)
    gallery.hang_texts([("a dog", "a dig")])
    assert not list(tmp_path.iterdir())


def test_an_evaluation_keeps_what_it_broke(trained_checkpoint, tokenizer, two_attacks, faint_folder, tmp_path):
    from robust_clip.data import load_image_dataset
    from robust_clip.models import RobustCLIPModel

    model = RobustCLIPModel.from_pretrained(trained_checkpoint)
    data = load_image_dataset(str(faint_folder), "test")
    evaluate_robustness(model, tokenizer, data, two_attacks, records_dir=tmp_path, examples=3)
    (row,) = tmp_path.glob("*/*/row.json")
    kept = read_examples(row.parent)
    assert len(kept) == 3
    assert all(example.clean_name == example.label_name != example.adversarial_name for example in kept)
