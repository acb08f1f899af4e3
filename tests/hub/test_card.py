"""Model cards: numbers from rows only, metadata that the Hub parses, and code that runs."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import CLIPModel

from robust_clip.adaptation import LoRA
from robust_clip.attacks import PGD
from robust_clip.data import ImageDataset
from robust_clip.evaluation import Row, evaluate_robustness, get_protocol
from robust_clip.hub import DataFacts, ModelFolder, Origin, read_cost, render_card
from robust_clip.hub.cost import Cost, Emissions
from robust_clip.models import PromptedCLIPModel, PromptSizes, RobustCLIPModel
from robust_clip.objectives import TeCoA
from tests.hub.card_rules import metadata_errors
from tests.training.conftest import trainer_for

BASE = "openai/clip-vit-base-patch32"
RECIPE = "objective: tecoa   # Eq. 3\ntraining: {learning_rate: 1e-5}   # section 4.1\n"


@pytest.fixture
def row(tiny_model: RobustCLIPModel, tiny_processor: Any, coloured: ImageDataset) -> Row:
    return evaluate_robustness(tiny_model, tiny_processor.tokenizer, coloured, get_protocol("pgd20"))


def at(row: Row, epsilon: int, robust: float) -> Row:
    threat = {"norm": "linf", "epsilon": epsilon / 255}
    interval = (robust - 0.1, robust + 0.1)
    protocol = row.protocol | {"threat_model": threat}
    told = f"linf {epsilon}/255"
    return replace(row, protocol=protocol, threat_model=told, robust_accuracy=robust, robust_interval=interval)


def test_numbers_are_those_of_the_rows(row: Row) -> None:
    card = str(render_card("nano", rows=[at(row, 1, 0.12345), at(row, 16, 0.1), at(row, 2, 0.11)]))
    header = next(line for line in card.splitlines() if line.startswith("| data set"))
    assert header.endswith("| clean | robust, linf 1/255 | robust, linf 2/255 | robust, linf 16/255 |")
    assert "| 12.3 [2.3, 22.3] | 11.0 [1.0, 21.0] | 10.0 [0.0, 20.0] |" in card
    assert "PGD(steps=20" in card


def test_model_index_round_trips(row: Row, tmp_path: Path) -> None:
    rows = [at(row, 1, 0.3), at(row, 2, 0.2)]
    facts = {"coloured": DataFacts("someone/coloured", "MIT")}
    card = render_card("someone/nano", Origin(base_model=BASE), rows=rows, datasets=facts, licence="mit")
    card.save(tmp_path / "README.md")
    assert metadata_errors((tmp_path / "README.md").read_text()) == []
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.base_model, data.license, data.base_model_relation) == (BASE, "mit", "finetune")
    index = yaml.safe_load(data.to_yaml())["model-index"]
    name, results = model_index_to_eval_results(index)
    assert name == "nano"
    assert {result.dataset_type for result in results} == {"someone/coloured"}
    measured = [(result.metric_type, result.metric_value) for result in results]
    clean = ("clean_accuracy", round(row.clean_accuracy, 4))
    assert measured == [clean, ("robust_accuracy", 0.3), ("robust_accuracy", 0.2)]
    assert results == card.data.eval_results


def test_the_rules_for_metadata_can_fail() -> None:
    card = "---\nlicense: My Own\nbase_model: /home/me\nmodel-index: [{name: x}]\n---\n"
    assert len(metadata_errors(card)) == 3
    assert metadata_errors("# no metadata") == ["no metadata between two lines of ---"]


def test_without_rows_the_card_claims_nothing() -> None:
    card = render_card("nano")
    assert "Not measured yet. Do not assume any robustness." in str(card)
    assert "robust-clip evaluate --model FOLDER" in str(card)
    assert "take it for not adversarially trained" in str(card)
    assert "emissions: not measured" in str(card)
    assert card.data.eval_results is None


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"threat model": "linf 2/255"}, "A CLIP model, adversarially trained against linf 2/255."),
        (
            {"threat model": "linf 2/255", "share of the robust weights": 0.25},
            "A CLIP model, 0.75 original weights and 0.25 weights adversarially trained against linf 2/255.",
        ),
    ],
)
def test_how_weights_were_trained_is_no_measurement(record: dict[str, Any], told: str, row: Row) -> None:
    card = str(render_card("nano", Origin(record=record)))
    assert f"{told} Not measured yet: how accurate and how robust it is, is not known." in card
    assert "comes from a recorded measurement" not in card
    assert f"{told} Written by `robust_clip`; every accuracy below comes from a recorded measurement." in str(
        render_card("nano", Origin(record=record), rows=[row])
    )


@pytest.mark.parametrize(
    ("revision", "told"),
    [
        ("sha256:0", "revision `sha256:0`, which `sha256sum` prints for the weights file"),
        ("memory-sha256:0", "revision `memory-sha256:0`, a digest of the loaded tensors"),
        ("0123abc", "revision `0123abc`, the commit on the Hub"),
    ],
)
def test_what_identifies_the_weights_is_told(revision: str, told: str, row: Row) -> None:
    rows = [replace(row, model={"id": "nano", "revision": revision}), at(row, 1, 0.1)]
    card = str(render_card("nano", rows=rows))
    assert card.count(told) == 1
    assert card.count("- revision `") == 2


def test_paper_is_cited_once() -> None:
    card = str(render_card("nano", papers=[TeCoA.paper, TeCoA.paper, PGD.paper]))
    assert card.count(TeCoA.paper.bibtex) == 1
    assert card.count("```bibtex") == 2


def test_the_recipe_stands_with_its_comments_and_what_changed() -> None:
    text = RECIPE + "# ~~~~ a line that would end a shorter block\n"
    card = str(render_card("nano", Origin(recipe=text, changes=["training.learning_rate: 3e-05 instead of 1e-05"])))
    assert f"~~~~~~~yaml\n{text.strip()}\n~~~~~~~\n" in card
    assert "- `training.learning_rate: 3e-05 instead of 1e-05`" in card


def test_what_a_check_found_is_told(row: Row) -> None:
    sound, broken = at(row, 1, 0.2), replace(at(row, 2, 0.3), checks=["robust accuracy rises with epsilon"], skipped=2)
    assert "No sanity check of these measurements failed" in str(render_card("nano", rows=[sound]))
    card = str(render_card("nano", rows=[sound, broken]))
    assert "| 20.0 [10.0, 30.0] | 30.0 [20.0, 40.0] (!) |" in card
    assert "coloured, pgd20, linf 2/255: check failed: robust accuracy rises with epsilon" in card
    assert "2 images could not be read" in card


def test_other_models_are_in_the_table_and_not_in_the_index(row: Row) -> None:
    other = replace(row, model={"id": "undefended", "revision": "sha256:0"}, clean_accuracy=0.75)
    card = render_card("nano", rows=[row], compared=[other])
    assert "| undefended | coloured | test |" in str(card)
    assert 0.75 not in [result.metric_value for result in card.data.eval_results]


def test_record_licences_and_cost() -> None:
    record: dict[str, Any] = {"data": "cifar10/train, secret/train", "threat model": "linf 2/255"}
    read = [{"data": "cifar10/train", "images": 9, "from": "the Hub", "hub id": "uoft-cs/cifar10"}]
    record["data read"] = [*read, {"data": "secret/train", "images": 8, "from": "a local copy"}]
    record["hardware"] = "one thing"
    facts = {"cifar10": DataFacts("uoft-cs/cifar10"), "secret": DataFacts(None, "my own")}
    cost = Cost(4000, "one thing", Emissions(12.5, 0.1, "Iceland"))
    origin = Origin(base_model=BASE, base_licence="MIT", record=record, cost=cost)
    card = render_card("nano", origin, datasets=facts, licence="cc-by-4.0", metadata={"language": "en", "tags": "x"})
    for told in (
        "A CLIP model, adversarially trained against linf 2/255.",
        "[cifar10](https://huggingface.co/datasets/uoft-cs/cifar10) (trained on): none stated",
        "secret (trained on): my own",
        f"the base `{BASE}`: MIT",
        "- training: 1.1 hours since it was last started, on one thing",
        "12.5 g CO2-equivalent, 0.1 kWh, in Iceland",
    ):
        assert told in str(card)
    metadata = card.data.to_dict()
    assert metadata["datasets"] == ["uoft-cs/cifar10"]
    assert metadata["co2_eq_emissions"]["emissions"] == 12.5
    assert (metadata["language"], metadata["tags"][-1]) == ("en", "x")
    assert metadata_errors(str(card)) == []


def test_the_trainer_leaves_on_record_which_base_an_adapter_belongs_to(
    tmp_path: Path, tiny_checkpoint: Path, tiny_processor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_for(tmp_path, tiny_checkpoint, tiny_processor, max_steps=1, adaptation=LoRA(r=2))
    trainer.train()
    trainer.save_model()
    record = json.loads((tmp_path / "robustness.json").read_text())
    assert record["objective"] == "TeCoA"
    assert record["base weights"].startswith("sha256:")
    assert "sha256:" not in (tmp_path / "README.md").read_text()
    other = RobustCLIPModel.from_pretrained(tiny_checkpoint)
    with torch.no_grad():
        other.logit_scale += 1
    other.save_pretrained(tmp_path / "other")
    for base, warned in ((tiny_checkpoint, False), (tmp_path / "other", True)):
        RobustCLIPModel.from_pretrained(tmp_path, base=str(base))
        assert ("expect other results" in caplog.text) == warned


def test_cost_is_read_from_a_folder(tmp_path: Path) -> None:
    assert read_cost(tmp_path) == Cost()
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": [{"train_runtime": 7.5}, {"eval": 1}]}))
    (tmp_path / "emissions.csv").write_text(
        "emissions,energy_consumed,country_name,cpu_model,gpu_model\n"
        "0.001,0.5,Iceland,a CPU,\n0.002,0.25,Iceland,a CPU,\n"
    )
    assert read_cost(tmp_path, "a CPU") == Cost(7.5, "a CPU", Emissions(3.0, 0.75, "Iceland", "a CPU"))
    (tmp_path / "emissions.csv").write_text("nothing\n1\n")
    with pytest.raises(ValueError, match="damaged"):
        read_cost(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"licence": "My licence"}, "identifier of the Hub"), ({"metadata": {"dataset": "x"}}, "leave it out")],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_card("nano", **changes)


def run_code(card: ModelCard) -> list[str]:
    """Runs every block of Python in a card, and returns the blocks."""
    blocks = re.findall(r"```python\n(.*?)```", str(card), re.DOTALL)
    for block in blocks:
        exec(compile(block, "a block of the card", "exec"), {})  # noqa: S102
    return blocks


@pytest.fixture
def beside_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a photo."""
    Image.new("RGB", (20, 30), "red").save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_code_of_a_model_runs(
    tiny_model: Any, tiny_processor: Any, beside_photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in (tiny_model, tiny_processor):
        part.save_pretrained(beside_photo / "someone" / "nano")
    assert len(run_code(render_card("someone/nano"))) == 2
    assert len(re.findall(r"tensor\(\[\[0\.\d+, 0\.\d+\]\]", capsys.readouterr().out)) == 2


def test_the_code_of_an_adapter_runs(
    tiny_model: Any, tiny_processor: Any, beside_photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in (tiny_model, tiny_processor):
        part.save_pretrained(beside_photo / "base" / "clip")
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = get_peft_model(CLIPModel.from_pretrained("base/clip"), lora)
    adapted.save_pretrained(beside_photo / "someone" / "adapter")
    card = render_card("someone/adapter", Origin("adapter", "base/clip"))
    assert len(run_code(card)) == 2
    printed = capsys.readouterr().out
    assert "tensor([[0." in printed
    assert "torch.Size([1, 8])" in printed
    assert (card.data.library_name, card.data.base_model_relation) == ("peft", "adapter")


@pytest.mark.parametrize("kind", ["prompts", "prompted"])
def test_the_code_of_prompts_runs(
    kind: str, tiny_model: Any, tiny_processor: Any, beside_photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in (tiny_model, tiny_processor):
        part.save_pretrained(beside_photo / "base" / "clip")
    model = PromptedCLIPModel.around(RobustCLIPModel.from_pretrained("base/clip"), PromptSizes(tokens=2))
    where = beside_photo / "someone" / kind
    if kind == "prompts":
        model.save_prompts(where)
    else:
        for part in (model, tiny_processor):
            part.save_pretrained(where)
        ModelFolder.read(where).check()
    found = ModelFolder.read(where)
    assert found.kind == kind
    assert len(run_code(render_card(f"someone/{kind}", Origin(found.kind, "base/clip")))) == 1
    assert {"prompts": "torch.Size([1, 8])", "prompted": "tensor([[0."}[kind] in capsys.readouterr().out


def test_the_blocks_of_a_card_show_what_the_weights_give(
    tiny_model: Any, tiny_processor: Any, beside_photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in (tiny_model, tiny_processor):
        part.save_pretrained(beside_photo / "nano")
    texts = ["a photo of a cat", "a photo of a dog"]
    image = Image.open("photo.png")
    inputs = tiny_processor(text=texts, images=image, return_tensors="pt", padding=True)
    with torch.no_grad():
        wanted = CLIPModel.from_pretrained("nano")(**inputs).logits_per_image.softmax(dim=-1)
    run_code(render_card("nano"))
    first = re.search(r"tensor\(\[\[(0\.\d+), (0\.\d+)\]\]", capsys.readouterr().out)
    assert first
    assert [float(first[1]), float(first[2])] == pytest.approx(wanted[0].tolist(), abs=1e-4)
