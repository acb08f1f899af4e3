"""Recall on a small victim: what each attack does to it, and that nothing else moves it."""

import json
import logging
from dataclasses import asdict, dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import pyarrow.parquet as pq
import pytest
import torch

from paired_clip import CAPTIONS, build_paired_clip, captioned
from robust_clip.attacks import LEAF, PGD, SGA, Charmer, CoAttack, Square, TextAttack, WordList
from robust_clip.evaluation import retrieval
from robust_clip.evaluation.recall import recalls
from robust_clip.evaluation.retrieval import evaluate_retrieval
from robust_clip.evaluation.retrieval_protocol import RetrievalProtocol
from robust_clip.evaluation.retrieval_records import RetrievalRow
from robust_clip.evaluation.retrieval_search import PairSearch
from robust_clip.threat_model import ThreatModel

BALL = ThreatModel("linf", "12/255")
STEPS, LETTERS = PGD(steps=4), LEAF(positions=8)
IMAGES = RetrievalProtocol(image_attack=STEPS, threat_model=BALL)
TEXTS = RetrievalProtocol(text_attack=LETTERS)
PROTOCOLS = {
    "images": IMAGES,
    "images, own captions": replace(IMAGES, aim="pair"),
    "images, themselves": replace(IMAGES, aim="self"),
    "images, l2": replace(IMAGES, threat_model=ThreatModel("l2", 1.5)),
    "images, black box": replace(IMAGES, image_attack=Square(queries=30)),
    "captions": TEXTS,
    "captions, own images": replace(TEXTS, text_attack=Charmer(positions=3, characters="abc"), aim="pair"),
    "captions, themselves": replace(TEXTS, text_attack=WordList(k=10), aim="self"),
    "both": replace(IMAGES, text_attack=LETTERS),
    "co_attack": RetrievalProtocol(
        joint_attack=CoAttack(image_attack=STEPS, text_attack=LETTERS), threat_model=BALL, captions_per_image=1
    ),
    "sga": RetrievalProtocol(joint_attack=SGA(image_attack=STEPS, text_attack=LETTERS), threat_model=BALL),
}
every_protocol = pytest.mark.parametrize("name", PROTOCOLS)


@pytest.fixture(scope="module")
def victim():
    return build_paired_clip()


@pytest.fixture(scope="module")
def rows(victim):
    """The row of each protocol, measured once."""
    return {name: measure(victim, protocol) for name, protocol in PROTOCOLS.items()}


def measure(victim, protocol, dataset=None, **how):
    model, processor = victim
    return evaluate_retrieval(model, processor.tokenizer, dataset or captioned(), protocol, **how)


def found(row, mode, directions=("image_to_text", "text_to_image")):
    """Sum of all recalls of a mode."""
    return sum(one["recall"] for way in directions for one in row.recalls[mode][way].values())


def table(root):
    (path,) = root.glob("*/*/pairs.parquet")
    return pq.read_table(path).to_pylist()


@every_protocol
def test_each_attack_lowers_recall_and_leaves_the_clean_one(name, rows):
    row, clean = rows[name], rows["co_attack" if name == "co_attack" else "images"]
    assert row.recalls["clean"] == clean.recalls["clean"]
    assert 2 < found(row, "clean") < 6
    assert tuple(row.recalls) == PROTOCOLS[name].modes
    for mode in PROTOCOLS[name].modes[1:]:
        assert found(row, mode) < found(row, "clean") - 0.5, mode


def test_an_attack_on_both_sides_is_stronger_than_on_one(rows):
    for name in ("both", "sga", "co_attack"):
        assert found(rows[name], "both") <= min(found(rows[name], mode) for mode in ("images", "captions")), name
    assert rows["both"].recalls["images"] == rows["images"].recalls["images"]
    assert rows["both"].recalls["captions"] == rows["captions"].recalls["captions"]


@pytest.mark.parametrize("kind", ["images", "captions"])
def test_an_attack_that_sees_the_other_side_is_stronger(kind, victim, rows):
    blind = measure(victim, replace(PROTOCOLS[kind], aim="self"))
    for aim in ("gallery", "pair"):
        assert found(measure(victim, replace(PROTOCOLS[kind], aim=aim)), kind) < found(blind, kind) - 0.3


@pytest.mark.parametrize(("name", "batch_size"), [*((name, 3) for name in PROTOCOLS), ("both", 1)])
def test_batch_size_changes_nothing(name, batch_size, victim, rows):
    assert measure(victim, PROTOCOLS[name], batch_size=batch_size) == rows[name]


@pytest.mark.parametrize("name", ["images, l2", "both", "co_attack", "sga"])
def test_epsilon_zero_is_clean(name, victim, tmp_path):
    protocol = PROTOCOLS[name]
    row = measure(
        victim, replace(protocol, threat_model=ThreatModel(protocol.threat_model.norm, 0)), records_dir=tmp_path
    )
    assert row.recalls["images"] == row.recalls["clean"]
    for line in table(tmp_path):
        for way in ("image_to_text", "text_to_image"):
            assert line[f"images_{way}"] == line[f"clean_{way}"]


@pytest.mark.parametrize(
    ("name", "dies_at"), [("images", 3), ("captions, themselves", 2), ("both", 8), ("sga", 3)]
)
def test_a_killed_run_goes_on_where_it_was(name, dies_at, victim, tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "TOGETHER", 6)
    whole = measure(victim, PROTOCOLS[name], records_dir=tmp_path / "whole")
    attack, begun = PairSearch.attack, []

    def dies(search, stage, positions):
        begun.append((stage, positions[0]))
        if len(begun) == dies_at:
            raise KeyboardInterrupt
        return attack(search, stage, positions)

    monkeypatch.setattr(PairSearch, "attack", dies)
    how = {"records_dir": tmp_path / "killed", "revision": "a"}
    with pytest.raises(KeyboardInterrupt):
        measure(victim, PROTOCOLS[name], **how)
    (folder,) = (tmp_path / "killed").glob("*/*")
    kept = [f"{stage}-{first:09d}.safetensors" for stage, first in begun[:-1]]
    assert sorted(part.name for part in folder.glob("parts/*")) == sorted(kept)
    for other in ({"revision": "b"}, {}):
        with pytest.raises(ValueError, match=r"holds another measurement: model.revision is 'a' there"):
            measure(victim, PROTOCOLS[name], **how | {"revision": None} | other, resume=True)
    with pytest.raises(ValueError, match="holds an unfinished run: go on from it with --resume"):
        measure(victim, PROTOCOLS[name], **how)
    row = measure(victim, PROTOCOLS[name], **how, resume=True)
    everything = [(stage, first) for stage in PROTOCOLS[name].stages for first in (0, 6, 12)]
    assert begun == everything[:dies_at] + everything[dies_at - 1 :]
    assert row == replace(whole, model=whole.model | {"revision": "a"})
    assert table(tmp_path / "killed") == table(tmp_path / "whole")
    assert sorted(path.name for path in folder.iterdir()) == ["pairs.parquet", "retrieval.json"]


def test_a_finished_row_is_taken_and_never_mixed(victim, tmp_path, monkeypatch):
    row = measure(victim, TEXTS, records_dir=tmp_path)
    (path,) = tmp_path.glob("*/*/retrieval.json")
    assert path.parent.name == "retrieval-v1-leaf-gallery"
    assert RetrievalRow.read(path) == row
    assert json.loads(path.read_text()) == asdict(row)
    monkeypatch.setattr(retrieval, "PairSearch", None)
    assert measure(victim, TEXTS, records_dir=tmp_path, resume=True) == row
    with pytest.raises(ValueError, match="holds a finished run"):
        measure(victim, TEXTS, records_dir=tmp_path)
    for other, message in (
        (replace(TEXTS, text_attack=LEAF(positions=9)), "protocol.text_attack.parameters.positions is 8 there and 9"),
        (replace(TEXTS, seed=1), "seed is 0 there and 1 here"),
        (replace(TEXTS, resolution="model"), "protocol.resolution is 'native' there and 'model' here"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(victim, other, records_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"dataset.captions is 'sha256:\w+' there"):
        measure(victim, TEXTS, captioned([*CAPTIONS[:15], ["a bird"]]), records_dir=tmp_path, resume=True)
    path.write_text('{"model": 1}')
    with pytest.raises(ValueError, match="is not a row of retrieval"):
        RetrievalRow.read(path)


def test_a_row_says_what_was_measured(victim, rows):
    dataset = captioned()
    row = measure(victim, replace(PROTOCOLS["both"], samples=9, seed=3), dataset, revision="abc", model_id="me")
    assert (row.model["id"], row.model["revision"]) == ("me", "abc")
    assert (row.dataset["name"], row.dataset["split"]) == ("squares", "test")
    assert row.dataset["revision"] == dataset.revision
    assert (row.attack, row.threat_model, row.seed) == ("pgd+leaf-gallery", "linf 12/255", 3)
    assert (row.n_images, row.truncated) == (9, 0)
    chosen = RetrievalProtocol(samples=9, seed=3).choose(16)
    assert row.n_captions == sum(len(CAPTIONS[index]) for index in chosen)
    assert row.protocol["text_attack"] == {"attack": "LEAF", "parameters": asdict(LETTERS)}
    assert {"torch", "transformers"} <= row.versions.keys()
    assert (rows["sga"].attack, rows["sga"].protocol["joint_attack"]["attack"]) == ("sga-leaf", "SGA")
    assert rows["sga"].protocol["joint_attack"]["parameters"]["text_attack"]["attack"] == "LEAF"


def test_the_table_of_pairs_adds_up_to_the_row(victim, tmp_path):
    row = measure(victim, PROTOCOLS["sga"], records_dir=tmp_path)
    lines = table(tmp_path)
    assert [line["captions"] for line in lines] == CAPTIONS
    assert [list(map(len, (line["both_attacked_captions"], line["both_text_to_image"]))) for line in lines] == [
        [len(texts)] * 2 for texts in CAPTIONS
    ]
    for mode, ways in row.recalls.items():
        ranks = [line[f"{mode}_image_to_text"] for line in lines]
        assert ways["image_to_text"] == recalls(torch.tensor(ranks))
        ranks = [rank for line in lines for rank in line[f"{mode}_text_to_image"]]
        assert ways["text_to_image"] == recalls(torch.tensor(ranks))


def test_nothing_attacked_is_clean_recall_alone(victim, rows):
    row = measure(victim, RetrievalProtocol())
    assert row.recalls == {"clean": rows["images"].recalls["clean"]}
    assert (row.attack, row.threat_model, row.n_captions) == ("none", None, 20)
    assert measure(victim, RetrievalProtocol(captions_per_image=1)).n_captions == 16


@dataclass(frozen=True, kw_only=True)
class Appended(TextAttack):
    short_name: ClassVar[str] = "appended"
    asked: ClassVar[list[str]] = []

    def search(self, problem):
        self.asked.extend(problem.texts)
        return [f"{text} of gold" for text in problem.texts]


def test_captions_that_know_no_image_are_attacked_once_each(victim, tmp_path, monkeypatch):
    """Also when it is asked for again in another part, and after a part was read from disk."""
    monkeypatch.setattr(retrieval, "TOGETHER", 6)
    monkeypatch.setattr(Appended, "asked", [])
    protocol = RetrievalProtocol(text_attack=Appended(), aim="self")
    attack = PairSearch.attack
    with monkeypatch.context() as patched:
        patched.setattr(PairSearch, "attack", lambda *task: attack(*task[:2], task[2] if task[2][0] == 0 else 1 / 0))
        with pytest.raises(ZeroDivisionError):
            measure(victim, protocol, records_dir=tmp_path)
    assert Appended.asked == [caption for texts in CAPTIONS[:6] for caption in texts]
    measure(victim, protocol, records_dir=tmp_path, resume=True)
    flat = [caption for texts in CAPTIONS for caption in texts]
    assert sorted(Appended.asked) == sorted(set(flat))
    assert len(flat) > len(set(flat))
    assert [line["captions_attacked_captions"] for line in table(tmp_path)] == [
        [f"{text} of gold" for text in texts] for texts in CAPTIONS
    ]


def test_the_model_is_left_as_it_was_and_inference_mode_does_not_matter(victim, rows):
    model, _ = victim
    model.train()
    try:
        with torch.inference_mode():
            assert measure(victim, PROTOCOLS["both"]) == rows["both"]
        assert model.training
        assert all(parameter.grad is None for parameter in model.parameters())
    finally:
        model.eval()


def test_captions_beyond_the_context_are_counted_in_one_warning(victim, caplog):
    captions = [*CAPTIONS[:14], ["a cat " * 60], ["a dog " * 70, "a dog"]]
    with caplog.at_level(logging.WARNING, "robust_clip"):
        row = measure(victim, RetrievalProtocol(), captioned(captions))
    (record,) = [one for one in caplog.records if one.name.startswith("robust_clip")]
    assert record.getMessage().startswith("2 captions are cut at 77 tokens, the first is 'a cat a cat")
    assert row.truncated == 2


def test_half_precision_is_used_and_recorded(victim, tmp_path):
    for precision in ("fp32", "bf16"):
        row = measure(victim, replace(RetrievalProtocol(), precision=precision), records_dir=tmp_path / precision)
        assert row.protocol["precision"] == precision
    assert table(tmp_path / "fp32") != table(tmp_path / "bf16")


def test_what_cannot_be_measured_is_refused(victim, coloured, monkeypatch):
    with pytest.raises(ValueError, match="coloured has no captions, so there is nothing to retrieve"):
        measure(victim, RetrievalProtocol(), coloured)
    with pytest.raises(ValueError, match="needs at least 2 images, or every query is right; got 1"):
        measure(victim, RetrievalProtocol(samples=1))
    with pytest.raises(ValueError, match="squares row 0 has 3 captions, and co_attack takes one for each image"):
        measure(victim, replace(PROTOCOLS["co_attack"], captions_per_image=None))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        measure(victim, RetrievalProtocol(), batch_size=0)
    with pytest.raises(ValueError, match="the caption ' ' in column 'captions'"):
        captioned([*CAPTIONS[:15], ["a bird", " "]])
    half = build_paired_clip()[0].half()
    with pytest.raises(ValueError, match="weights in fp32, these are torch.float16"):
        measure((half, victim[1]), RetrievalProtocol())
    monkeypatch.setattr(retrieval, "process_state", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(ValueError, match="one process: start it without accelerate launch"):
        measure(victim, RetrievalProtocol())
