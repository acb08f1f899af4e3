"""ONNX files compute what the models do, for other batches than they were exported with."""

import logging
import shutil
import warnings

import pytest
import torch

from robust_clip.cli import main
from robust_clip.data.prompts import PAPER_TEMPLATE
from robust_clip.models import (
    PromptedCLIPModel,
    PromptSizes,
    ZeroShotClassifier,
    embed_classes,
    export_image_tower,
    export_text_tower,
    load_checkpoint,
)
from robust_clip.models.scratch import build_clip

runtime = pytest.importorskip("onnxruntime", reason="the extra robust-clip[onnx] is not installed")
pytest.importorskip("onnxscript", reason="the extra robust-clip[onnx] is not installed")

TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**TOWER, "image_size": 16, "patch_size": 8}
TEXTS = ["red", "a photo of a green thing", "of a blue one"]


@pytest.fixture
def shallow():
    """Of one layer, for which export takes half as long as for two."""
    model, processor = build_clip(TEXTS, vision_config=VISION, text_config=TOWER, projection_dim=8, vocab_size=530)
    return model.eval(), processor


def computed(file, **inputs):
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return session, torch.from_numpy(output)


def test_the_image_tower_resizes_and_normalises_inside(shallow, tmp_path, monkeypatch):
    """Pixels are black and white, so that bicubic interpolation overshoots and clipping is seen.

    The graph is then passed off as that of a model with one weight changed, which is noticed.
    """
    model, _ = shallow
    model.train()
    assert export_image_tower(model, tmp_path / "image.onnx", side=23) < 1e-5
    assert model.training
    assert model.vision_model.training
    pixels = (torch.rand(5, 3, 23, 23) > 0.5).float()
    session, features = computed(tmp_path / "image.onnx", pixels=pixels)
    with torch.no_grad():
        torch.testing.assert_close(features, model.encode_image(pixels), rtol=0, atol=1e-4)
        model.visual_projection.weight[3] *= 1.01
    assert session.get_inputs()[0].shape == ["batch", 3, 23, 23]
    assert session.get_outputs()[0].name == "image_features"
    monkeypatch.setattr(torch.onnx, "export", lambda graph, f, **_: shutil.copy(tmp_path / "image.onnx", f))
    with pytest.raises(FloatingPointError, match="differs from the model by .* more than 0.0001"):
        export_image_tower(model, tmp_path / "wrong.onnx", side=23)
    assert not (tmp_path / "wrong.onnx").exists()


def test_of_what_torch_says_only_idle_words_are_kept_back(shallow, tmp_path, monkeypatch, caplog):
    """The last of a message and of a warning of its own come through, and nothing is kept back afterwards."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    said = "torchvision is not installed. Skipping torchvision::nms"
    export = torch.onnx.export

    def talkative(*args, **kwargs):
        export(*args, **kwargs)
        logger.warning("something else")
        warnings.warn("a fair warning", FutureWarning, stacklevel=1)

    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logging.getLogger("torch"), "propagate", True)
    monkeypatch.setattr(torch.onnx, "export", talkative)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        export_image_tower(shallow[0], tmp_path / "image.onnx")
    assert "something else" in caplog.text
    assert "torchvision" not in caplog.text
    assert "a fair warning" in {str(warning.message) for warning in warned}
    assert not any("LeafSpec" in str(warning.message) for warning in warned)
    logger.warning(said)
    assert said in caplog.text


@torch.no_grad()
def test_the_text_tower_takes_texts_of_any_number_and_length(shallow, tmp_path):
    model, processor = shallow
    assert export_text_tower(model, tmp_path / "text.onnx") < 1e-5
    for texts in (TEXTS, TEXTS[:1]):
        tokens = {**processor.tokenizer(texts, padding=True, return_tensors="pt")}
        tokens = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        _, features = computed(tmp_path / "text.onnx", **tokens)
        torch.testing.assert_close(features, model.encode_text(**tokens), rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_command_writes_the_logits_of_classes(shallow, tmp_path, capsys):
    for part in shallow:
        part.save_pretrained(tmp_path)
    file = tmp_path / "new" / "logits.onnx"
    assert main(["export", str(tmp_path), str(file), "--classes", "red,green,blue"]) == 0
    assert f"Wrote {file}; in onnxruntime it differs by" in capsys.readouterr().out
    model, processor = load_checkpoint(str(tmp_path))
    embeds = embed_classes(model, processor.tokenizer, ["red", "green", "blue"], [PAPER_TEMPLATE])
    pixels = torch.rand(9, 3, 16, 16)
    _, logits = computed(file, pixels=pixels)
    torch.testing.assert_close(logits, ZeroShotClassifier(model, embeds)(pixels), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out.pt"], "must end with .onnx, got"),
        (["there.onnx"], "exists; give a new file"),
        (["out.onnx", "--tower", "text", "--classes", "a,b"], "belong to the image tower"),
        (["out.onnx", "--template", "a {}"], "belongs to --classes"),
        (["out.onnx", "--classes", ","], "Need class names"),
        (["out.onnx", "--side", "0"], "side must be a positive number of pixels, got 0"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, message, tiny_checkpoint, tmp_path, capsys):
    (tmp_path / "there.onnx").touch()
    name, *options = arguments
    assert main(["export", str(tiny_checkpoint), str(tmp_path / name), *options]) == 2
    assert message in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["there.onnx"]


def test_a_text_tower_with_a_learned_context_is_refused(tiny_model, tmp_path):
    prompted = PromptedCLIPModel.around(tiny_model, PromptSizes(context=2))
    with pytest.raises(ValueError, match="with learned context .*cannot be exported; export_classifier"):
        export_text_tower(prompted, tmp_path / "text.onnx")


def test_half_precision_is_refused(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="Only fp32 weights are exported, got torch.bfloat16"):
        export_image_tower(tiny_model.bfloat16(), tmp_path / "image.onnx")
