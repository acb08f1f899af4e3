"""A prediction depends on the image, and on nothing that happens around it."""

import os
import pickle
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import datasets
import pytest
import torch
from PIL import Image

from robust_clip.attacks import APGD, PGD, AttackRun, AutoAttack, CarliniWagner, Square, fit_to_classes
from robust_clip.data import ImageDataset
from robust_clip.evaluation import Protocol, Row, Sample, evaluate_robustness, get_protocol
from robust_clip.evaluation.bench import Bench
from robust_clip.threat_model import ThreatModel

FOUR = ThreatModel("linf", "4/255")
ONE_OF_TWO = """
import os, pickle, sys
from transformers import AutoTokenizer
from robust_clip.data import load_image_dataset
from robust_clip.evaluation import evaluate_robustness
from robust_clip.evaluation.processes import process_state
from robust_clip.models import RobustCLIPModel

checkpoint, data, records, protocol = sys.argv[1:]
model, tokenizer = RobustCLIPModel.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
images, protocol = load_image_dataset(data, "test"), pickle.loads(bytes.fromhex(protocol))
row = evaluate_robustness(model, tokenizer, images, protocol, batch_size=4, records_dir=records)
row.write(f"{records}/row{os.environ['RANK']}.json")
assert process_state().num_processes == 2
process_state().destroy_process_group()
"""


def test_every_outcome_occurs(whole, images, two_attacks):
    row, samples = whole
    assert [sample.index for sample in samples] == list(range(24))
    assert [sample.label for sample in samples] == images.labels.tolist()
    broken = Counter(sample.broken_by for sample in samples if sample.clean)
    assert broken.keys() == {None, *two_attacks.attack_names}
    assert row.clean_accuracy == sum(broken.values()) / 24 < 1
    assert row.robust_accuracy == broken[None] / 24


def test_a_row_says_what_was_measured(model, tokenizer, images, two_attacks):
    protocol = replace(two_attacks, samples=2)
    row = evaluate_robustness(model, tokenizer, images, protocol, seed=3, revision="abc")
    assert (row.model["id"], row.model["revision"]) == ("trained_clip", "abc")
    assert (row.dataset["name"], row.dataset["split"], row.dataset["revision"]) == (
        images.name,
        "test",
        images.revision,
    )
    assert (row.protocol, row.threat_model, row.seed) == (protocol.as_dict(), "linf 24/255", 3)
    assert (row.n, row.skipped) == (2, 0)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_changes_nothing(model, tokenizer, images, two_attacks, tmp_path, folder_of, whole, batch_size):
    evaluate_robustness(model, tokenizer, images, two_attacks, records_dir=tmp_path / "b", batch_size=batch_size)
    assert folder_of(tmp_path / "b") == whole


def test_decoding_in_workers_changes_nothing(model, tokenizer, images):
    rows = [evaluate_robustness(model, tokenizer, images, get_protocol("clean"), num_workers=n) for n in (0, 1)]
    assert rows[0] == rows[1]


def test_two_processes_change_nothing(trained_checkpoint, faint_folder, two_attacks, tmp_path, folder_of, whole):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    arguments = [str(trained_checkpoint), str(faint_folder), str(tmp_path / "two"), pickle.dumps(two_attacks).hex()]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, *arguments],
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
        )
        for rank in "01"
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    assert folder_of(tmp_path / "two") == whole
    assert [Row.read(tmp_path / "two" / f"row{rank}.json") for rank in "01"] == [whole[0], whole[0]]


def test_a_folder_that_cannot_be_written_stops_it_before_any_work(model, tokenizer, images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="give another directory"):
        evaluate_robustness(model, tokenizer, images, get_protocol("clean"), records_dir=tmp_path / "file")


def test_clean_means_no_robust_accuracy(model, tokenizer, images, whole):
    row = evaluate_robustness(model, tokenizer, images, get_protocol("clean"))
    assert (row.clean_accuracy, row.clean_interval) == (whole[0].clean_accuracy, whole[0].clean_interval)
    assert row.robust_accuracy is row.robust_interval is row.threat_model is None


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_epsilon_zero_is_clean(model, tokenizer, images, norm):
    attacks = [(PGD(steps=2), "margin"), (APGD(steps=2), "dlr"), (Square(queries=5), "margin")]
    if norm == "l2":
        attacks.append((CarliniWagner(steps=3, binary_search_steps=2), "margin"))
    protocol = Protocol("zero", 1, tuple(AttackRun(*pair) for pair in attacks), ThreatModel(norm, 0))
    row = evaluate_robustness(model, tokenizer, images, protocol)
    assert row.robust_accuracy == row.clean_accuracy > 0
    assert not row.checks


def test_a_sample_of_images_gets_the_predictions_it_has_among_all(
    model, tokenizer, images, two_attacks, tmp_path, folder_of, whole
):
    fewer = replace(two_attacks, samples=5)
    assert evaluate_robustness(model, tokenizer, images, fewer, records_dir=tmp_path / "fewer").n == 5
    assert folder_of(tmp_path / "fewer")[1] == [whole[1][index] for index in fewer.choose(24, seed=0)]


def test_a_model_in_training_is_measured_in_eval_mode_and_left_as_it_was(model, tokenizer, images, two_attacks, whole):
    model.train()
    model.text_model.eval()
    for layer in model.vision_model.encoder.layers:
        layer.self_attn.dropout = 0.9
    flags = [module.training for module in model.modules()]
    assert evaluate_robustness(model, tokenizer, images, two_attacks) == whole[0]
    assert [module.training for module in model.modules()] == flags
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def mixed_images(bad=()):
    """Images of two sizes, of which those in `bad` are cut off."""
    sides = [8, 16, 16, 8, 16, 8]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["red", "green"])})
    pictures = [Image.new("RGB", (side, side), (40 * place, 90, 0)) for place, side in enumerate(sides)]
    rows = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1] * 3}, features=features)
    rows = rows.cast_column("image", datasets.Image(decode=False))
    encoded = [row["image"]["bytes"][: 40 if place in bad else None] for place, row in enumerate(rows)]
    columns = {"image": [{"bytes": content, "path": None} for content in encoded], "label": [0, 1] * 3}
    return ImageDataset(datasets.Dataset.from_dict(columns, features=features), name="mixed", split="test")


def test_native_sizes_may_differ(model, tokenizer, two_attacks):
    rows = [evaluate_robustness(model, tokenizer, mixed_images(), two_attacks, batch_size=size) for size in (1, 3, 64)]
    assert rows[0].n == 6
    assert rows[0] == rows[1] == rows[2]


def test_a_damaged_image_stops_it_or_is_counted(model, tokenizer, two_attacks, tmp_path, folder_of):
    damaged = mixed_images(bad=[2])
    with pytest.raises(ValueError, match="mixed/test row 2"):
        evaluate_robustness(model, tokenizer, damaged, two_attacks)
    row = evaluate_robustness(model, tokenizer, damaged, two_attacks, on_bad_image="skip", records_dir=tmp_path)
    assert (row.n, row.skipped) == (5, 1)
    assert folder_of(tmp_path)[1][2] == Sample(2)


def test_templates_are_those_of_the_protocol(model, tokenizer, images):
    single = evaluate_robustness(model, tokenizer, images.with_templates(["a {}", "one {}"]), get_protocol("clean"))
    assert single.dataset["templates"] == ["a {}"]
    ensemble = get_protocol("clean", templates="ensemble")
    own = evaluate_robustness(model, tokenizer, images.with_templates(["a {}", "one {}"]), ensemble)
    assert own.dataset["templates"] == ["a {}", "one {}"]
    assert len(evaluate_robustness(model, tokenizer, images, ensemble).dataset["templates"]) > 1
    assert single.dataset["prompts"] != own.dataset["prompts"]


def test_class_prompts_are_embedded_once(model, tokenizer, images, two_attacks):
    prompts = []
    model.text_model.register_forward_hook(lambda *call: prompts.append(len(call[-1].pooler_output)))
    row = evaluate_robustness(model, tokenizer, images, two_attacks, batch_size=4)
    assert sum(prompts) == len(images.class_names) * len(row.dataset["templates"])


def test_half_precision_weights_are_refused_under_fp32(model, tokenizer, images):
    with pytest.raises(ValueError, match="asks for fp32, the weights are torch.bfloat16"):
        evaluate_robustness(model.bfloat16(), tokenizer, images, get_protocol("clean"))


def test_bf16_is_used_and_recorded(model, tokenizer, images, two_attacks, monkeypatch):
    seen, logits = {}, Bench.logits

    def watched(bench, pixels, attacked=False):
        found = logits(bench, pixels, attacked)
        seen.setdefault(bench.protocol.precision, []).append(found)
        return found

    monkeypatch.setattr(Bench, "logits", watched)
    for precision in ("fp32", "bf16"):
        row = evaluate_robustness(model, tokenizer, images, replace(two_attacks, samples=4, precision=precision))
        assert row.protocol["precision"] == precision
    full, half = (seen[precision][0] for precision in ("fp32", "bf16"))
    assert 0 < (full - half).abs().max() < 0.1 * full.abs().max()


def test_captions_have_no_accuracy(model, tokenizer):
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = datasets.Dataset.from_dict({"image": [Image.new("RGB", (8, 8))], "text": ["a hat"]}, features=features)
    with pytest.raises(ValueError, match="photos has captions, not classes"):
        evaluate_robustness(model, tokenizer, ImageDataset(rows, name="photos"), get_protocol("clean"))


def test_one_class_has_no_accuracy(model, tokenizer):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["hat"])})
    rows = datasets.Dataset.from_dict({"image": [Image.new("RGB", (8, 8))], "label": [0]}, features=features)
    with pytest.raises(ValueError, match="hats has but the class 'hat', so every answer is right"):
        evaluate_robustness(model, tokenizer, ImageDataset(rows, name="hats"), get_protocol("clean"))


def test_few_classes_are_recorded(model, tokenizer, images):
    protocol = Protocol(
        "few", 1, (AttackRun(APGD(steps=2, targets=9), "dlr"), AttackRun(PGD(steps=2))), ThreatModel("linf", "8/255")
    )
    row = evaluate_robustness(model, tokenizer, images, protocol)
    assert row.attacks == ["1-apgd-dlr", "2-pgd-cross_entropy"]
    assert row.substituted == ["apgd_t-dlr: without targets, since there are 3 classes"]
    assert len(row.protocol["attacks"]) == 2


def test_what_an_ensemble_does_without_on_few_classes_is_recorded(model, tokenizer, images):
    runs = AttackRun(APGD(steps=2), "dlr"), AttackRun(APGD(steps=2, targets=9), "dlr")
    ensemble = AttackRun(AutoAttack(version="custom", runs=runs))
    protocol = Protocol("whole", 1, (ensemble,), ThreatModel("linf", "8/255"))
    row = evaluate_robustness(model, tokenizer, images, protocol)
    assert row.substituted == [f"{ensemble}: apgd_t-dlr: without targets, since there are 3 classes"]


def test_an_ensemble_of_which_nothing_can_be_run_is_left_out():
    only = AttackRun(AutoAttack(version="custom", runs=(AttackRun(APGD(targets=9), "dlr"),)))
    runs, notes = fit_to_classes([only, AttackRun(PGD())], 1)
    assert runs == (AttackRun(PGD()),)
    assert notes == [f"{only}: apgd_t-dlr: left out, since there are 1 classes"]


def test_two_classes_are_few(model, tokenizer):
    """Targeted DLR needs four, DLR three: what is run in their place is told, and nothing twice."""
    runs = (AttackRun(APGD(steps=2, targets=9), "dlr"), AttackRun(APGD(steps=2), "dlr"), AttackRun(PGD(steps=2)))
    row = evaluate_robustness(
        model, tokenizer, mixed_images(), Protocol("few", 1, runs, ThreatModel("linf", "8/255")), batch_size=4
    )
    assert row.attacks == ["1-apgd-cross_entropy", "2-pgd-cross_entropy"]
    assert [note.split(":")[0] for note in row.substituted] == ["apgd_t-dlr", "apgd-dlr"]
    assert all(note.endswith("since there are 2 classes") for note in row.substituted)


def test_the_whole_battery_is_run_when_asked(model, tokenizer, images, monkeypatch):
    few = Protocol("few", 1, (AttackRun(PGD(steps=1, step_size="0.1/255")),), ThreatModel("linf", "24/255"))
    quick, thorough = (evaluate_robustness(model, tokenizer, images, few, thorough=asked) for asked in (False, True))
    assert len(thorough.checks) > len(quick.checks)
    assert any("images stand at epsilon 0.5" in finding for finding in thorough.checks)


def test_every_run_that_attacks_is_checked_in_short(model, tokenizer, images, two_attacks):
    with torch.no_grad():
        model.logit_scale.fill_(30)  # saturates cross-entropy
    row = evaluate_robustness(model, tokenizer, images, replace(two_attacks, samples=8))
    assert any("have a gradient of cross-entropy that is zero" in finding for finding in row.checks)
    assert evaluate_robustness(model, tokenizer, images, get_protocol("clean")).checks == []


def test_images_that_stand_at_a_large_radius_are_a_finding_unless_training_is_on_record(model, tokenizer, images):
    blind = Protocol("blind", 1, (AttackRun(PGD(steps=1, step_size="0.01/255", random_start=False)),), FOUR)
    (finding,) = evaluate_robustness(model, tokenizer, images, blind).checks
    assert "although the checkpoint does not say that it was trained against attacks" in finding
    model.config.robustness = {"objective": "TeCoA", "attack": {"attack": "PGD"}}
    assert evaluate_robustness(model, tokenizer, images, blind).checks == []


def test_a_row_says_where_the_images_are_not_those_of_the_protocol(model, tokenizer, images, two_attacks):
    listed = replace(two_attacks, samples=4, sample_choice="robustbench")
    row = evaluate_robustness(model, tokenizer, images, listed)
    (note,) = row.substituted
    assert note.startswith("4 images drawn by the seed in place of RobustBench's: of its 4, 0 were found")
    assert row.protocol["sample_choice"] == "robustbench"
    assert row == replace(
        evaluate_robustness(model, tokenizer, images, replace(listed, sample_choice="random")),
        protocol=row.protocol,
        substituted=row.substituted,
    )
