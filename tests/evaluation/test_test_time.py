"""Evaluating through a test-time defence: what attacks see, what the row says, and what is never mixed."""

import dataclasses
import json

import pytest
import torch

from robust_clip.attacks import LEAF, PGD, AttackRun, sample_generators
from robust_clip.cli import evaluate
from robust_clip.evaluation import Protocol, Row, evaluate_robustness, get_protocol
from robust_clip.evaluation.bench import set_up
from robust_clip.evaluation.checks import Probe, quick_checks
from robust_clip.evaluation.variants import with_test_time_defence
from robust_clip.models import RTPT, TTC
from robust_clip.threat_model import ThreatModel

SIZE = ThreatModel("linf", "12/255")
PLAIN = Protocol("short", 1, (AttackRun(PGD(steps=6)),), SIZE)
# As strong as the attack is, so that what does not know of it goes astray.
PUSHING = TTC(epsilon="24/255", step_size="12/255", threshold=10.0)
VOTING = RTPT(views=7, neighbours=3, learning_rate=0.05, augmix=False)


def through(defence, know, protocol=PLAIN, eot_samples=2):
    return with_test_time_defence(protocol, defence, know, eot_samples)


def test_the_protocol_says_what_was_judged_through_what():
    known, unknown = through(TTC(), True), through(TTC(), False)
    assert [known.name, unknown.name] == ["short_ttc_known", "short_ttc_unknown"]
    assert len({known.folder, unknown.folder, PLAIN.folder, through(VOTING, True).folder}) == 4
    told = known.as_dict()["test_time_defence"]
    assert (told["defence"], told["attacks_know"]) == ("TTC", True)
    assert told["parameters"] == dataclasses.asdict(TTC())
    assert not unknown.as_dict()["test_time_defence"]["attacks_know"]
    assert "test_time_defence" not in PLAIN.as_dict()
    assert [known.attacks[0].eot_samples, unknown.attacks[0].eot_samples] == [2, 1]
    assert "attacks know" in known.source
    assert known.attack_names == ("1-pgd-cross_entropy", "2-pgd-cross_entropy-undefended")
    assert [attack.get("sees") for attack in known.as_dict()["attacks"]] == [None, "the undefended classifier"]
    json.dumps(known.as_dict())


def test_without_attacks_there_is_nothing_to_know():
    clean = get_protocol("clean")
    assert through(TTC(), True, clean) == through(TTC(), False, clean)
    assert through(TTC(), False, clean).folder == "clean_ttc-v1"
    assert "attacks_know" not in through(TTC(), False, clean).as_dict()["test_time_defence"]


def test_an_attack_that_takes_more_draws_keeps_them():
    many = dataclasses.replace(PLAIN, attacks=(AttackRun(PGD(), eot_samples=20),))
    assert through(TTC(), True, many).attacks[0].eot_samples == 20
    assert through(TTC(epsilon=0), True).attacks[0].eot_samples == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: through(TTC(), True, eot_samples=1), "draws lots, and pgd-cross_entropy sees one draw at a time"),
        (
            lambda: through(
                TTC(), True, dataclasses.replace(PLAIN, attacks=(AttackRun(PGD(), "embedding_distance"),))
            ),
            "climbs image features",
        ),
        (
            lambda: through(TTC(), True, Protocol("words", 1, (), None, text_attack=LEAF())),
            "attacks texts, which does not go through",
        ),
        (
            lambda: through(
                TTC(),
                False,
                dataclasses.replace(PLAIN, attacks=(AttackRun(PGD(), "objective"),), objective="TeCoA()"),
            ),
            "climbs the loss of an objective, which does not",
        ),
    ],
)
def test_what_cannot_be_led_through_a_defence_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.fixture
def bench_of(model, tokenizer, images):
    model.eval()
    names = images.class_names
    return lambda protocol: set_up(model, tokenizer, names, images.templates[:1], protocol, seed=0)


def test_what_does_not_know_attacks_the_undefended_classifier(bench_of):
    """To the bit; what knows of the defence goes elsewhere, and twice the same way."""
    pixels, labels = torch.rand(6, 3, 16, 16), torch.arange(6) % 3

    def attacked(protocol, times=1, run=0):
        bench = bench_of(protocol)
        for _ in range(times):
            how = {"generators": sample_generators(0, range(6)), "batch_size": 3}
            result = bench.attack(protocol.attacks[run], SIZE, pixels, labels, **how)
        return result

    plain = attacked(PLAIN)
    assert torch.equal(attacked(through(PUSHING, False)), plain)
    assert torch.equal(attacked(through(PUSHING, True), run=1), plain)
    known = attacked(through(PUSHING, True))
    assert not torch.equal(known, plain)
    assert torch.equal(attacked(through(PUSHING, True), times=2), known)


def test_clean_and_attacked_images_are_judged_through_the_defence(bench_of):
    pixels = torch.rand(4, 3, 16, 16)
    for know in (False, True):
        bench = bench_of(through(PUSHING, know))
        for attacked in (False, True):
            logits = bench.logits(pixels, attacked)
            assert torch.equal(logits, bench.defended(pixels))
            assert not torch.allclose(logits, bench.classifier(pixels))


@pytest.mark.parametrize("defence", [PUSHING, TTC(), VOTING], ids=["pushing", "ttc", "r_tpt"])
def test_an_attack_that_knows_breaks_no_fewer(model, tokenizer, images, defence):
    protocols = [through(defence, know) for know in (False, True)]
    protocols.append(dataclasses.replace(protocols[1], attacks=protocols[1].attacks[:1]))
    n = 8 if defence is VOTING else 24
    unknown, known, known_alone = (
        evaluate_robustness(model, tokenizer, images, dataclasses.replace(protocol, samples=n)).robust_accuracy
        for protocol in protocols
    )
    assert known <= min(unknown, known_alone)
    assert known_alone <= unknown + 1 / 24
    if defence is PUSHING:
        assert known_alone < unknown


@pytest.mark.parametrize("defence", [PUSHING, VOTING], ids=["ttc", "r_tpt"])
def test_no_image_depends_on_the_batch(model, tokenizer, images, folder_of, tmp_path, defence):
    protocol = through(defence, True, dataclasses.replace(PLAIN, samples=5, attacks=(AttackRun(PGD(steps=2)),)))
    rows = {}
    for size in (1, 5):
        how = {"records_dir": tmp_path / str(size), "thorough": size == 5 and defence is PUSHING}
        evaluate_robustness(model, tokenizer, images, protocol, batch_size=size, **how)
        rows[size] = folder_of(tmp_path / str(size))
    assert rows[1][1] == rows[5][1]
    assert rows[1][0].defence_cost["images_at_once"] == 1
    assert not any("random" in finding or "batch size" in finding for finding in rows[5][0].checks)


def test_records_of_other_parameters_are_not_gone_on_from(model, tokenizer, images, tmp_path):
    clean = dataclasses.replace(get_protocol("clean"), samples=3)
    evaluate_robustness(model, tokenizer, images, through(TTC(), True, clean), records_dir=tmp_path)
    with pytest.raises(ValueError, match=r"test_time_defence.parameters.steps is 2 there and 3 here"):
        evaluate_robustness(
            model, tokenizer, images, through(TTC(steps=3), True, clean), records_dir=tmp_path, resume=True
        )


def test_the_row_tells_the_cost_and_older_rows_are_read(model, tokenizer, images, tmp_path):
    clean = dataclasses.replace(get_protocol("clean"), samples=3)
    row = evaluate_robustness(model, tokenizer, images, through(VOTING, True, clean))
    assert row.defence_cost["passes"] == {
        "image_forward": 8,
        "image_backward": 0,
        "text_forward": 6,
        "text_backward": 3,
    }
    assert row.defence_cost["seconds_per_image"] > row.defence_cost["undefended_seconds_per_image"] > 0
    row.write(tmp_path / "row.json")
    assert Row.read(tmp_path / "row.json") == row
    older = json.loads((tmp_path / "row.json").read_text())
    del older["defence_cost"]
    (tmp_path / "row.json").write_text(json.dumps(older))
    assert Row.read(tmp_path / "row.json").defence_cost is None
    assert evaluate_robustness(model, tokenizer, images, clean).defence_cost is None


class Silent(TTC):
    """A defence that draws lots and does not say so."""

    random = False


def test_a_defence_that_hides_that_it_is_random_is_found(bench_of):
    pixels, labels = torch.rand(4, 3, 16, 16), torch.arange(4) % 3

    def findings(protocol):
        return quick_checks(Probe(bench_of(protocol), pixels, labels, range(4), 0, 4))

    (finding,) = findings(through(Silent(), True))
    assert "random, although it does not say so" in finding
    assert not findings(through(TTC(), True))
    assert not findings(through(Silent(), False))


def test_the_command_judges_through_a_defence_and_prints_its_cost(command, capsys):
    given = ["--test_time_defence", "{name: ttc, steps: 1}", "--attacks_know", "both", "--eot_samples", "3"]
    command("--protocol", "clean,pgd20", *given)
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[2] for line in lines[3:6]]
    assert names == ["clean_ttc", "pgd20_ttc_unknown", "pgd20_ttc_known"]
    (cost,) = [line for line in lines if line.startswith("clean_ttc: ")]
    assert "one image takes 3 image forward, 1 image backward passes" in cost
    assert "undefended" in cost


def test_the_draws_are_those_that_were_asked_for(command, capsys):
    command("--test_time_defence", "ttc", "--eot_samples", "3", "--format", "json", "--protocol", "pgd20")
    (row,) = json.loads(capsys.readouterr().out)
    assert row["protocol"]["attacks"][0]["eot_samples"] == 3
    assert row["protocol"]["test_time_defence"]["attacks_know"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--test_time_defence", "nope"], "Unknown test_time_defence 'nope'; known: r_tpt, ttc"),
        (["--test_time_defence", "{name: ttc, tau: 1}"], "Unknown key 'tau' in section test_time_defence; .*beta"),
        (["--test_time_defence", "ttc", "--eot_samples", "1"], "sees one draw at a time"),
        (["--test_time_defence", "ttc", "--eot_samples", "0"], "sees one draw at a time"),
        (["--attacks_know", "both"], "are about a --test_time_defence"),
        (["--eot_samples", "4"], "are about a --test_time_defence"),
        (
            ["--test_time_defence", "ttc", "--attacks_know", "false", "--eot_samples", "4"],
            "meet none of its draws; leave out --eot_samples",
        ),
    ],
)
def test_mistakes_are_answered_before_the_model_is_loaded(command, arguments, message, monkeypatch):
    monkeypatch.setattr(evaluate, "load_checkpoint", None)
    with pytest.raises(ValueError, match=message):
        command("--protocol", "clean,pgd20", *arguments)


def test_attacks_that_know_of_a_random_defence_go_on_to_their_end():
    """One that stops at the first fooled look stops at a coin's toss."""
    stops = get_protocol("pgd20")
    assert stops.attacks[0].attack.stop_when_fooled
    through, undefended = with_test_time_defence(stops, TTC(), True).attacks
    assert not through.attack.stop_when_fooled
    assert undefended.attack.stop_when_fooled
    (blind,) = with_test_time_defence(stops, TTC(), False).attacks
    assert blind.attack.stop_when_fooled
