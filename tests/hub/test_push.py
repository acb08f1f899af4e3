"""Pushing: what a folder must hold, what goes, and that it is seen whole or not at all."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from robust_clip.hub import ModelFolder, push_folder, render_card
from robust_clip.hub.folder import shared_name
from robust_clip.models import RobustCLIPModel, packaged_checkpoint
from tests.hub.hub_answers import TOKEN
from tests.hub.hub_double import HubDouble
from tests.training.conftest import trainer_for

REPO = "someone/nano"


def push(folder: Path, **options: Any) -> str:
    return push_folder(ModelFolder.read(folder).files(), REPO, **options)


def test_what_is_pushed_comes_back_whole_in_one_commit(hub: HubDouble, folder: Path) -> None:
    assert push(folder) == f"{hub.url}/{REPO}"
    assert hub.repositories[REPO].messages == ["initial commit", "Upload by robust-clip"]
    sent = hub.files(REPO)
    assert {"config.json", "recipe.yaml", "tokenizer.json", "model.safetensors.index.json"} <= sent.keys()
    assert not [name for name in sent if "checkpoint" in name or name.endswith((".bin", ".pt"))]
    assert all(content == (folder / name).read_bytes() for name, content in sent.items() if name != ".gitattributes")
    here, there = RobustCLIPModel.from_pretrained(folder), RobustCLIPModel.from_pretrained(REPO)
    assert all(torch.equal(value, there.state_dict()[name]) for name, value in here.state_dict().items())


def test_finished_measurements_go_along_and_images_stay(folder: Path) -> None:
    for name in ("done/row.json", "done/samples.parquet", "done/examples/1.png", "begun/parts/part-1.parquet"):
        (folder / "records" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "records" / name).write_bytes(b"")
    found = ModelFolder.read(folder)
    assert {name for name in found.files() if "/" in name} == {"records/done/row.json", "records/done/samples.parquet"}
    assert found.left_out() == ["checkpoint-5", "training_args.bin"]


def test_interrupted_in_the_middle_nothing_is_seen_and_the_second_push_sends_the_rest(
    hub: HubDouble, folder: Path
) -> None:
    shards = len(list(folder.glob("*.safetensors")))
    assert shards > 2
    hub.fail_after = 1
    with pytest.raises(ValueError, match=r"did not go through .* told to fail .* Nothing of it can be seen"):
        push(folder)
    assert set(hub.files(REPO)) == {".gitattributes"}
    assert len(hub.received) == 1
    hub.fail_after = None
    push(folder)
    assert len(hub.received) == len(set(hub.received)) == shards
    assert set(hub.files(REPO)) > {path.name for path in folder.glob("*.safetensors")}


def test_an_update_of_the_same_model_needs_no_leave(hub: HubDouble, folder: Path) -> None:
    push(folder)
    (folder / "recipe.yaml").write_text("objective: fare\n")
    push(folder)
    assert hub.files(REPO)["recipe.yaml"] == b"objective: fare\n"
    assert len(hub.repositories[REPO].messages) == 3


def test_other_files_are_refused_or_replaced_in_the_same_commit(hub: HubDouble, folder: Path) -> None:
    shutil.copy(folder / "config.json", folder / "other.json")
    push(folder)
    (folder / "other.json").unlink()
    before = dict(hub.repositories[REPO].branches)
    with pytest.raises(ValueError, match=r"nano holds files that are none of this model's: other\.json\. .*--replace"):
        push(folder)
    assert hub.repositories[REPO].branches == before
    push(folder, known=["other.json"])
    assert "other.json" in hub.files(REPO)
    push(folder, replace=True)
    assert "other.json" not in hub.files(REPO)
    assert ".gitattributes" in hub.files(REPO)
    assert len(hub.repositories[REPO].messages) == 3


def test_a_commit_of_somebody_else_meanwhile_is_not_overwritten(
    hub: HubDouble, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(folder)
    upload = HfApi.preupload_lfs_files

    def slow(api: HfApi, *args: Any, **kwargs: Any) -> None:
        upload(api, *args, **kwargs)
        hub.repositories[REPO].commit("main", {"theirs.txt": hub.keep(b"theirs")}, "somebody else's")

    monkeypatch.setattr(HfApi, "preupload_lfs_files", slow)
    (folder / "recipe.yaml").write_text("objective: fare\n")
    with pytest.raises(ValueError, match="was changed meanwhile, so nothing was committed"):
        push(folder)
    assert set(hub.files(REPO)) == {"theirs.txt"}


def test_private_branch_and_the_users_own_name(hub: HubDouble, folder: Path) -> None:
    url = push_folder(ModelFolder.read(folder).files(), "nano", private=True, branch="v2")
    assert url == f"{hub.url}/{REPO}/tree/v2"
    assert hub.repositories[REPO].private
    assert set(hub.files(REPO)) == {".gitattributes"}
    assert "config.json" in hub.files(REPO, "v2")
    push(folder, branch="v2")


@pytest.mark.parametrize(("token", "message"), [(None, "hf auth login.*HF_TOKEN"), ("hf_wrong", "may not write to")])
def test_without_a_token_that_may_write(
    hub: HubDouble, folder: Path, token: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match=message) as refused:
        push(folder)
    assert "\n" not in str(refused.value)
    assert not hub.repositories


def test_a_card_with_bad_metadata_is_refused_before_anything_is_sent(hub: HubDouble, folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: My Own\n---\n# nano\n")
    with pytest.raises(ValueError, match="one of the Hub's identifiers"):
        push(folder)
    assert not hub.received


def test_the_hub_validates_our_card(hub: HubDouble) -> None:
    render_card(REPO, licence="mit").validate()
    with pytest.raises(ValueError, match="identifiers"):
        ModelCard("---\nlicense: My Own\n---\n").validate()


def cut_off(folder: Path) -> None:
    file = sorted(folder.glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:-100])


def rename_a_key(folder: Path) -> None:
    file = sorted(folder.glob("*.safetensors"))[0]
    save_file({f"old.{name}": value for name, value in load_file(file).items()}, file, {"format": "pt"})


def pickle_alone(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")


def remove(pattern: str) -> Any:
    return lambda folder: [file.unlink() for file in folder.glob(pattern)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_off, "is damaged"),
        (rename_a_key, "should have shape .*, got nothing"),
        (pickle_alone, r"no model.safetensors; it holds pytorch_model\.bin, training_args\.bin, which are pickled"),
        (remove("model-00001*"), "has no model-00001"),
        (remove("config.json"), "holds nothing to load"),
        (remove("processor_config.json"), "has no image processor"),
        (remove("tokenizer.json"), "has no tokenizer"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
    ],
    ids=["cut off", "renamed", "pickle", "shard", "config", "processor", "tokenizer", "json"],
)
def test_a_folder_that_others_could_not_load_is_refused(folder: Path, damage: Any, message: str) -> None:
    ModelFolder.read(folder).check()
    damage(folder)
    with pytest.raises(ValueError, match=message):
        ModelFolder.read(folder).check()


def test_an_adapter_names_a_base_that_others_have(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = get_peft_model(CLIPModel.from_pretrained(tiny_checkpoint), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    found = ModelFolder.read(config.parent)
    assert (found.kind, found.base_model) == ("adapter", None)
    with pytest.raises(ValueError, match=r"which others cannot load: set base_model_name_or_path in adapter_config"):
        found.check()
    config.write_text(json.dumps(found.config | {"base_model_name_or_path": "openai/clip-vit-base-patch32"}))
    found = ModelFolder.read(config.parent)
    found.check()
    assert {"adapter_config.json", "adapter_model.safetensors"} <= found.files().keys()


def test_a_base_on_somebodys_disk_has_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert shared_name(packaged_checkpoint("nano_clip")) == "nano_clip"
    (tmp_path / "out" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert shared_name("out/mine") is None
    assert shared_name("out/theirs") == "out/theirs"


def test_the_trainer_pushes_as_transformers_does_with_our_card(
    hub: HubDouble, tmp_path: Path, tiny_checkpoint: Path, tiny_processor: Any
) -> None:
    trainer = trainer_for(tmp_path / "out", tiny_checkpoint, tiny_processor, max_steps=1, hub_model_id=REPO)
    trainer.train()
    trainer.evaluate()
    trainer.push_to_hub(language="en", license="mit")
    card = hub.files(REPO)["README.md"].decode()
    assert f'CLIPModel.from_pretrained("{REPO}")' in card
    assert "adversarially trained against linf 4/255" in card
    assert "since it was last started" in card
    data = ModelCard.load(REPO).data
    assert (data.license, data.language) == ("mit", "en")
    assert {result.metric_type for result in data.eval_results} == {"clean_accuracy", "robust_accuracy"}
    mine, theirs = trainer.model.state_dict(), CLIPModel.from_pretrained(REPO).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_a_model_pushes_as_transformers_does(hub: HubDouble, tiny_model: Any) -> None:
    tiny_model.push_to_hub(REPO, token=TOKEN)
    assert {"config.json", "model.safetensors", "README.md"} <= hub.files(REPO).keys()
    theirs = RobustCLIPModel.from_pretrained(REPO).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in tiny_model.state_dict().items())


def test_a_header_that_promises_too_much_is_refused(folder: Path) -> None:
    file = sorted(folder.glob("*.safetensors"))[0]
    file.write_bytes(struct.pack("<Q", 10**9) + b"{")
    with pytest.raises(ValueError, match="is damaged"):
        ModelFolder.read(folder).check()
