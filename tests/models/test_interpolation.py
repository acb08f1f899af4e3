"""Weights between two models."""

import copy

import pytest
import torch

from robust_clip.cli import main
from robust_clip.models import RobustCLIPModel, interpolate


@pytest.fixture
def robust(tiny_model):
    """The tiny model with another image tower."""
    changed = copy.deepcopy(tiny_model)
    with torch.no_grad():
        for name, weight in changed.named_parameters():
            if name.startswith(("vision_model.", "visual_projection.")):
                weight.add_(torch.randn_like(weight))
    changed.config.robustness = {"objective": "TeCoA"}
    return changed


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_every_weight_lies_between(tiny_model, robust, alpha):
    before = copy.deepcopy(robust.state_dict())
    merged = interpolate(tiny_model, robust, alpha).state_dict()
    for name, original in tiny_model.state_dict().items():
        expected = (1 - alpha) * original.double() + alpha * before[name].double()
        assert torch.allclose(merged[name].double(), expected, atol=1e-6), name
        assert torch.equal(robust.state_dict()[name], before[name])
    ends = {0.0: tiny_model.state_dict(), 1.0: before}
    if alpha in ends:
        assert all(torch.equal(merged[name], weight) for name, weight in ends[alpha].items())


def test_the_share_is_on_record(tiny_model, robust):
    record = interpolate(tiny_model, robust, 0.25).config.robustness
    assert record == {"objective": "TeCoA", "share of the robust weights": 0.25}
    assert robust.config.robustness == {"objective": "TeCoA"}


def test_what_does_not_go_together_is_refused(tiny_model, robust):
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="alpha must be from 0"):
            interpolate(tiny_model, robust, alpha)
    other = copy.deepcopy(robust)
    other.config.image_mean = [0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match="image_mean of their configurations"):
        interpolate(tiny_model, other, 0.5)
    other.visual_projection = torch.nn.Linear(3, 3, bias=False)
    with pytest.raises(ValueError, match=r"differ in 'visual_projection.weight'"):
        interpolate(tiny_model, other, 0.5)


def test_command_writes_a_checkpoint_and_nothing_over_another(tiny_checkpoint, tmp_path, robust, capsys):
    robust.save_pretrained(tmp_path / "robust")
    for file in tiny_checkpoint.iterdir():
        if not (tmp_path / "robust" / file.name).exists():
            (tmp_path / "robust" / file.name).write_bytes(file.read_bytes())
    arguments = ["merge", str(tiny_checkpoint), str(tmp_path / "robust"), str(tmp_path / "out"), "--alpha", "0.5"]
    assert main(arguments) == 0
    loaded = RobustCLIPModel.from_pretrained(tmp_path / "out")
    expected = interpolate(RobustCLIPModel.from_pretrained(tiny_checkpoint), robust, 0.5)
    assert all(torch.equal(weight, expected.state_dict()[name]) for name, weight in loaded.state_dict().items())
    assert main(arguments) == 2
    assert "is not empty" in capsys.readouterr().err
