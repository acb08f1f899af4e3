"""Model cards: numbers from rows only, and metadata that the Hub parses."""

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from robust_clip.data import ImageDataset
from robust_clip.evaluation import Row, evaluate_robustness, get_protocol
from robust_clip.hub import render_card
from robust_clip.models import RobustCLIPModel
from robust_clip.objectives import TeCoA


@pytest.fixture
def row(tiny_model: RobustCLIPModel, tiny_processor: object, coloured: ImageDataset) -> Row:
    return evaluate_robustness(tiny_model, tiny_processor.tokenizer, coloured, get_protocol("pgd20"))  # type: ignore[attr-defined]


def test_numbers_are_those_of_the_row(row: Row) -> None:
    card = str(render_card("nano", rows=[replace(row, robust_accuracy=0.12345, robust_interval=(0.1, 0.2))]))
    assert "12.3 [10.0, 20.0]" in card
    assert "linf 1/255" in card


def test_model_index_round_trips(row: Row, tmp_path: object) -> None:
    path = tmp_path / "README.md"  # type: ignore[operator]
    render_card("someone/nano", rows=[row], base_model="openai/clip-vit-base-patch32", licence="mit").save(path)
    data = ModelCard.load(path).data
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results["clean_accuracy"] == pytest.approx(row.clean_accuracy, abs=1e-4)
    assert results["robust_accuracy"] == pytest.approx(row.robust_accuracy, abs=1e-4)
    assert (data.base_model, data.license) == ("openai/clip-vit-base-patch32", "mit")


def test_without_rows_the_card_claims_nothing() -> None:
    card = str(render_card("nano"))
    assert "Not measured. Do not assume any robustness." in card
    assert "not adversarially trained" in card


def test_paper_is_cited_once() -> None:
    card = str(render_card("nano", papers=[TeCoA.paper, TeCoA.paper]))
    assert card.count(TeCoA.paper.bibtex) == 1
