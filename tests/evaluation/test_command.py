"""`robust-clip evaluate`, in one process and without a network."""

import json
import shutil

import pytest

from robust_clip.cli import evaluate
from tests.toy_bert import save_tiny_bert

ADAPTED = ["--attack_loss", "objective"]


def test_a_table_with_a_row_for_each_epsilon(command, capsys):
    assert command("--epsilon", "1/255, 8/255") == 0
    title, _, header, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("trained_clip (sha256:")
    assert header.split("  ")[0] == "data set"
    assert ["linf 1/255" in lines[0], "linf 8/255" in lines[1]] == [True, True]
    assert "[" in lines[0]


def test_json_is_the_rows(command, capsys):
    command("--protocol", "clean", "--format", "json")
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["n"], row["robust_accuracy"], row["protocol"]["name"]) == (3, None, "clean")


def test_records_are_refused_before_any_work_and_resumed(command, capsys, tmp_path, monkeypatch):
    arguments = ["--records", str(tmp_path), "--format", "json", "--protocol", "clean"]
    command(*arguments)
    first = capsys.readouterr().out
    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "load_checkpoint", None)
        with pytest.raises(ValueError, match="clean-v1-random3 holds a finished run"):
            command(*arguments)
    command(*arguments, "--resume")
    assert capsys.readouterr().out == first


def test_data_sets_of_one_name_are_refused_before_any_work(command, coloured_folder, tmp_path, monkeypatch):
    twin = shutil.copytree(coloured_folder, tmp_path / coloured_folder.name)
    monkeypatch.setattr(evaluate, "load_checkpoint", None)
    other = shutil.copytree(coloured_folder, tmp_path / "other" / twin.name)
    shutil.copy(coloured_folder / "train.parquet", other / "test.parquet")
    with pytest.raises(ValueError, match=f"{other} are both called {twin.name}, by which records tell them apart"):
        command("--datasets", f"{coloured_folder},{other}")


def test_a_data_set_by_two_names_is_measured_once(command, coloured_folder, tmp_path, capsys):
    twin = shutil.copytree(coloured_folder, tmp_path / coloured_folder.name)
    command("--datasets", f"{coloured_folder},{twin}", "--protocol", "clean", "--format", "json")
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_what_presets_share_is_measured_once(command, capsys, tmp_path):
    command("--protocol", "pgd20,clean,pgd20", "--records", str(tmp_path), "--format", "json")
    assert [row["protocol"]["name"] for row in json.loads(capsys.readouterr().out)] == ["pgd20", "clean"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "pgd7"], "known: clean, pgd20, pgd100"),
        (["--epsilon", "4"], "did you mean 4/255"),
        (["--epsilon", "1/255,0"], "linf 0 leaves every image as it is; give a radius above 0"),
        (["--split", "validation"], "has no split 'validation'"),
        (["--datasets", "cifar11"], "No data set 'cifar11'"),
        (["--records", "/dev/null/records"], "cannot write to /dev/null/records"),
        (["--norm", "l2"], "a radius of linf means nothing in l2: give an epsilon"),
        (["--protocol", "tecoa", "--norm", "l2", "--epsilon", "0.5"], "has steps of 1/255 in linf, which mean"),
        (["--protocol", "cw_l2", "--norm", "linf", "--epsilon", "4/255"], "CarliniWagner keeps to l2 alone"),
        (["--objective", "tecoa"], "no attack climbs an objective unless it is told to: add --attack_loss objective"),
        (["--teacher", "nano_clip"], "no attack climbs an objective unless it is told to"),
        (ADAPTED, "needs to know which: give --objective"),
        ([*ADAPTED, "--objective", "nope"], "Unknown objective 'nope'; known: .*tecoa"),
        ([*ADAPTED, "--objective", "{name: tecoa, weight: 1}"], "Unknown key 'weight' in section objective"),
        ([*ADAPTED, "--objective", "clean"], "Clean does not look at attacked images"),
        ([*ADAPTED, "--objective", "contrastive"], "Contrastive contrasts captions"),
        ([*ADAPTED, "--objective", "img_coadv"], "ImgCoAdv contrasts images"),
        (["--resume"], "--resume goes on from records: give their folder as --records"),
        (["--examples", "2"], "--examples are kept with the records: give a folder for them as --records"),
        (["--protocol", "clean", "--checks"], "--checks tries attacks on images, and clean has none"),
        (["--suite", "zero_shot_17"], "unknown suite 'zero_shot_17'; did you mean"),
        ([*ADAPTED, "--objective", "fare"], "FARE compares with the checkpoint .* give it as --teacher"),
        ([*ADAPTED, "--objective", "tecoa", "--teacher", "nano_clip"], "TeCoA has no use for a teacher"),
        ([*ADAPTED, "--objective", "tecoa", "--protocol", "square"], "no attack of protocol 'square' can climb"),
    ],
)
def test_mistakes_are_answered_before_the_model_is_loaded(command, arguments, message, monkeypatch):
    monkeypatch.setattr(evaluate, "load_checkpoint", None)
    with pytest.raises(ValueError, match=message):
        command(*arguments)


def test_a_model_that_is_not_there_is_refused_before_data_are_read(command, monkeypatch):
    monkeypatch.setattr(evaluate, "load_image_datasets", lambda *_, **__: pytest.fail("data were read"))
    with pytest.raises(ValueError, match=r"No checkpoint 'nano_clipp': no such folder. Did you mean nano_clip\?"):
        command("--model", "nano_clipp")


def test_without_the_masked_language_model_the_protocols_that_need_none_are_named(command):
    with pytest.raises(ValueError, match="'nobody/bert'; .* mmcoa_word_list and mmcoa_leaf"):
        command("--protocol", "mmcoa", "--masked_lm", "nobody/bert")


def test_attacks_climb_the_objective_that_is_named(command, capsys, trained_checkpoint):
    def rows(*objective):
        command("--protocol", "pgd20,tecoa_aa", *ADAPTED, "--format", "json", *objective)
        return json.loads(capsys.readouterr().out)

    first, second = rows("--objective", "tecoa")
    assert first["protocol"]["name"] == "pgd20_objective_tecoa"
    assert (first["attacks"], first["protocol"]["objective"]) == (["1-pgd-objective"], "TeCoA()")
    assert (second["protocol"]["name"], second["attacks"]) == ("tecoa_aa_objective_tecoa", ["1-apgd-objective"])
    row, _ = rows("--objective", "{name: fare, clean_weight: 0.5}", "--teacher", str(trained_checkpoint))
    assert row["protocol"]["objective"].startswith("FARE(clean_weight=0.5, ")
    assert ", teacher trained_clip (sha256:" in row["protocol"]["objective"]


def test_the_command_says_which_images_it_measured(command, capsys):
    command("--protocol", "robustbench_imagenet", "--resolution", "native", "--epsilon", "0.5")
    printed = capsys.readouterr().out
    assert "robustbench_imagenet v2" in printed
    assert "robustbench_imagenet: 3 images drawn by the seed in place of RobustBench's: of its 3, 0 were" in printed


def test_balls_may_be_round(command, capsys):
    command("--protocol", "pgd20,apgd_ce", "--norm", "l2", "--epsilon", "0.5,1", "--format", "json")
    rows = json.loads(capsys.readouterr().out)
    assert [row["threat_model"] for row in rows] == ["l2 0.5", "l2 1"] * 2


def test_a_finished_row_can_be_checked_afterwards(command, capsys, tmp_path):
    arguments = ["--records", str(tmp_path), "--protocol", "pgd20", "--epsilon", "0.1/255"]
    command(*arguments)
    before = json.loads(next(tmp_path.rglob("row.json")).read_text())
    command(*arguments, "--resume", "--checks")
    after = json.loads(next(tmp_path.rglob("row.json")).read_text())
    assert json.loads(next(tmp_path.rglob("battery.json")).read_text()).keys() == {"found"}
    assert {**after, "checks": None} == {**before, "checks": None}
    assert set(before["checks"]) <= set(after["checks"])


def test_what_checks_find_is_printed(command, capsys):
    command("--protocol", "pgd20", "--epsilon", "4/255", "--samples", "24", "--checks", "--temperature", "1e-6")
    assert "pgd20: " in capsys.readouterr().out.split("\n\n")[-1]


def test_a_protocol_is_changed_by_the_command(command, capsys):
    changed = ["--precision", "bf16", "--templates", "ensemble", "--temperature", "0.05", "--resolution", "model"]
    command(*changed, "--num_workers", "1", "--on_bad_image", "skip", "--format", "json")
    (row,) = json.loads(capsys.readouterr().out)
    told = {name: row["protocol"][name] for name in ("precision", "templates", "temperature", "resolution")}
    assert told == {"precision": "bf16", "templates": "ensemble", "temperature": 0.05, "resolution": "model"}
    assert len(row["dataset"]["templates"]) > 1


def test_class_prompts_are_attacked_by_a_masked_language_model(command, capsys, tmp_path):
    command("--protocol", "mmcoa", "--masked_lm", save_tiny_bert(tmp_path / "bert"), "--format", "json")
    rows = json.loads(capsys.readouterr().out)
    assert [row["protocol"]["name"] for row in rows] == ["mmcoa_image", "mmcoa_text", "mmcoa_both"]
    told = [row["protocol"].get("text_attack") for row in rows]
    assert told[0] is None
    assert told[1] == told[2]
    assert told[1]["attack"] == "BERTAttack"
    assert told[1]["parameters"]["masked_lm"].startswith("bert (sha256:")
