"""The config: how pixels are normalised, and what is not a CLIP."""

import json
import logging

import pytest
from transformers import BertConfig, CLIPConfig, CLIPImageProcessorPil, SiglipConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from robust_clip.models import RobustCLIPConfig, RobustCLIPModel


def test_a_config_without_statistics_normalises_as_openai_does():
    config = RobustCLIPConfig()
    assert config.image_mean == OPENAI_CLIP_MEAN
    assert config.image_std == OPENAI_CLIP_STD
    assert config.robustness is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_mean": [0.5]}, r"image_mean must be three numbers, one per colour channel, got \[0.5\]"),
        ({"image_std": [0.5, 0.5, 0.5, 0.5]}, "image_std must be three numbers"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std must be positive in each channel"),
    ],
)
def test_bad_statistics_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RobustCLIPConfig(**settings)


def test_what_it_was_trained_against_survives_saving(tmp_path):
    RobustCLIPConfig(robustness={"objective": "tecoa", "epsilon": "2/255"}, image_std=[0.5] * 3).save_pretrained(
        tmp_path
    )
    config = RobustCLIPConfig.from_pretrained(tmp_path)
    assert config.robustness == {"objective": "tecoa", "epsilon": "2/255"}
    assert config.image_std == [0.5] * 3


def test_the_saved_config_is_that_of_a_stock_clip(tmp_path):
    RobustCLIPConfig().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "clip"
    assert saved["architectures"] == ["CLIPModel"]
    assert type(CLIPConfig.from_pretrained(tmp_path)) is CLIPConfig


@pytest.mark.parametrize("other", [SiglipConfig(), BertConfig()], ids=lambda config: config.model_type)
def test_a_checkpoint_that_is_not_a_clip_is_refused(other, tmp_path):
    other.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"Not a CLIP checkpoint.*{other.model_type}.*'clip' is needed"):
        RobustCLIPModel.from_pretrained(tmp_path)


def test_a_config_that_does_not_say_what_it_is_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 16}')
    with pytest.raises(ValueError, match="Not a CLIP checkpoint"):
        RobustCLIPModel.from_pretrained(tmp_path)


def test_statistics_of_a_stock_checkpoint_come_from_its_image_processor(tmp_path):
    CLIPConfig().save_pretrained(tmp_path)
    CLIPImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(tmp_path)
    config = RobustCLIPConfig.from_pretrained(tmp_path)
    assert (config.image_mean, config.image_std) == ([0.5] * 3, [0.25] * 3)


def test_a_stock_checkpoint_without_image_processor_is_noticed(tmp_path, caplog):
    CLIPConfig().save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="robust_clip"):
        config = RobustCLIPConfig.from_pretrained(tmp_path)
    assert config.image_mean == OPENAI_CLIP_MEAN
    assert str(tmp_path) in caplog.text
