"""`robust-clip convert`."""

import json
import traceback

import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from robust_clip.cli import main
from robust_clip.hub import load_published
from robust_clip.models import PromptedCLIPModel
from tests.hub.published_formats import tuned_model, write_base


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path, "quick_gelu")


def test_a_tower_becomes_a_stock_checkpoint_and_goes_back(tmp_path, base, capsys):
    torch.save(tuned_model("quick_gelu").visual.state_dict(), tmp_path / "tower.pt")
    out, back = str(tmp_path / "out"), str(tmp_path / "back")
    assert main(["convert", str(tmp_path / "tower.pt"), out, "--base", base, "--hidden_act", "quick_gelu"]) == 0
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert printed.startswith(json.dumps(record, indent=2))
    assert record["activation"] == "quick_gelu, by hidden_act"
    assert set(record["written"]["sha256"]) == {"model.safetensors"}
    CLIPModel.from_pretrained(out)
    CLIPProcessor.from_pretrained(out)
    assert main(["convert", out, back, "--to", "open_clip"]) == 0
    written = {file.name for file in (tmp_path / "back").iterdir()}
    assert written >= {"open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "conversion.json"}


def test_prompters_are_written_beside_the_model(tmp_path, base, capsys):
    content = {"vision_encoder_state_dict": tuned_model("quick_gelu").visual.state_dict()}
    torch.save(content | {"add_prompter": {"prompt": torch.ones(1, 2, 128)}}, tmp_path / "best.pth.tar")
    out = tmp_path / "out"
    given = ["convert", str(tmp_path / "best.pth.tar"), str(out), "--base", base, "--hidden_act", "quick_gelu"]
    assert main([*given, "--to", "open_clip"]) == 2
    assert "has visual prompts, which open_clip has no place for" in capsys.readouterr().err
    assert main(given) == 0
    assert "without them the model is not what was trained" in capsys.readouterr().out
    model = PromptedCLIPModel.from_pretrained(out / "prompts", base=str(out))
    assert torch.equal(model.vision_model.embeddings.tokens, torch.ones(2, 128))
    assert json.loads((out / "prompts" / "prompts_config.json").read_text())["base"]["name"] == str(out)


@pytest.mark.parametrize(
    "junk", [b"this is no checkpoint!!", b"<!doctype html><html>..", b"PK\x03\x04" + bytes(19), b"("]
)
def test_a_file_of_something_else_is_refused_without_advice_to_run_it(junk, tmp_path, capsys):
    (tmp_path / "broken.pt").write_bytes(junk)
    with pytest.raises(ValueError, match=rf"broken.pt \({len(junk)} bytes\) is damaged or cut short: .") as error:
        load_published(tmp_path / "broken.pt")
    told = "".join(traceback.format_exception(error.value))
    assert "Re-running" not in told
    assert "arbitrary code" not in told
    assert main(["convert", str(tmp_path / "broken.pt"), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"robust-clip convert: {error.value}\n"


def test_a_wrong_target_is_refused_before_anything_is_read(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["convert", "nowhere", str(tmp_path / "out"), "--to", "onnx"])
    assert "invalid choice: 'onnx'" in capsys.readouterr().err


def test_prompters_that_do_not_fit_leave_nothing(tmp_path, base, capsys):
    content = {"vision_encoder_state_dict": tuned_model("quick_gelu").visual.state_dict()}
    torch.save(content | {"add_prompter": {"prompt": torch.ones(1, 2, 64)}}, tmp_path / "best.pth.tar")
    given = ["convert", str(tmp_path / "best.pth.tar"), str(tmp_path / "out"), "--base", base]
    assert main([*given, "--hidden_act", "quick_gelu"]) == 2
    assert "not (2, 128)" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))


def test_a_refusal_is_one_line(tmp_path, base, capsys):
    torch.save(tuned_model("quick_gelu").visual.state_dict(), tmp_path / "tower.pt")
    assert main(["convert", str(tmp_path / "tower.pt"), str(tmp_path / "out"), "--base", base]) == 2
    told = capsys.readouterr().err
    assert "give --hidden_act quick_gelu" in told.splitlines()[-1]
    assert not (tmp_path / "out").exists()
