"""The classifier that attacks see: compiled or not, it computes the same, and the model is left as it was."""

import os
import shutil
from dataclasses import replace

import pytest
import torch

from robust_clip.attacks import CrossEntropy, input_gradient
from robust_clip.evaluation import evaluate_robustness, get_protocol
from robust_clip.evaluation.bench import compiled_tower, set_up
from robust_clip.models.scratch import build_clip

COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def compilations(monkeypatch):
    """What is handed to `torch.compile`, which then only counts calls."""
    seen = []

    def count(function, **_options):
        def counted(*args, **kwargs):
            seen.append(function)
            return function(*args, **kwargs)

        return counted

    monkeypatch.setattr(torch, "compile", count)
    return seen


@pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler, and there is none")
def test_a_compiled_tower_gives_the_same_gradients_for_images_of_any_size_and_number():
    vision = TOWER | {"image_size": 16, "patch_size": 8}
    model, processor = build_clip(["a b"], vision_config=vision, text_config=TOWER, projection_dim=8, vocab_size=530)
    protocol = get_protocol("pgd20")
    bench = set_up(model.eval(), processor.tokenizer, ["red", "green"], ["a {}"], protocol, 0)

    def passes():
        for batch, side in ((3, 16), (3, 11), (9, 20), (17, 16)):
            pixels = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(side))
            yield input_gradient(bench.classifier, pixels, CrossEntropy(torch.arange(batch) % 2))

    expected = list(passes())
    with compiled_tower(model, wanted=True):
        compiled = list(passes())
    for uncompiled_pass, compiled_pass in zip(expected, compiled, strict=True):
        assert uncompiled_pass[0].abs().max() > 1e-3
        torch.testing.assert_close(compiled_pass, uncompiled_pass, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(*pair) for pair in zip(expected[0], next(passes()), strict=True))


def test_only_the_tower_is_compiled_and_only_for_a_while(model, tokenizer, images, two_attacks, whole, compilations):
    model.text_model.requires_grad_(False)
    tower, before = model.vision_model, [parameter.requires_grad for parameter in model.parameters()]
    row = evaluate_robustness(model, tokenizer, images, replace(two_attacks, compiled=True))
    assert {function.__self__ for function in compilations} == {tower}
    assert (row.clean_accuracy, row.robust_accuracy) == (whole[0].clean_accuracy, whole[0].robust_accuracy)
    assert "forward" not in vars(tower)
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    compilations.clear()
    evaluate_robustness(model, tokenizer, images, replace(two_attacks, samples=2))
    assert not compilations


def test_an_error_leaves_no_compiled_tower(model, compilations):
    def forward(*args, **kwargs):
        return type(tower).forward(tower, *args, **kwargs)

    tower = model.vision_model
    tower.forward = forward  # as libraries do that hook into a model

    def fail():
        with compiled_tower(model, wanted=True):
            assert not any(parameter.requires_grad for parameter in model.parameters())
            model.encode_image(torch.rand(1, 3, 16, 16))
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert compilations == [forward]
    assert tower.forward is forward
    assert all(parameter.requires_grad for parameter in model.parameters())
