"""Protocols are values that say all they mean."""

import json

import pytest

from robust_clip.attacks import LEAF, PGD, AttackRun, CarliniWagner
from robust_clip.evaluation import Protocol, get_protocol
from robust_clip.threat_model import ThreatModel

ATTACKS = (AttackRun(PGD()),)
THREAT_MODEL = ThreatModel("linf", "4/255")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resolution", "screen"),
        ("sample_choice", "last"),
        ("templates", "none"),
        ("precision", "fp16"),
        ("samples", 0),
    ],
)
def test_a_field_must_have_a_known_value(field, value):
    with pytest.raises(ValueError, match=f"{field} must be .*, got {value!r}"):
        Protocol("mine", 1, ATTACKS, THREAT_MODEL, **{field: value})


@pytest.mark.parametrize(("attacks", "threat_model"), [(ATTACKS, None), ((), THREAT_MODEL)])
def test_attacks_and_threat_model_come_together(attacks, threat_model):
    with pytest.raises(ValueError, match="a threat model is needed with attacks"):
        Protocol("mine", 1, attacks, threat_model)


def test_an_attack_keeps_to_its_norms():
    with pytest.raises(ValueError, match="CarliniWagner keeps to l2 alone: protocol 'mine' has .* linf 4/255"):
        Protocol("mine", 1, (*ATTACKS, AttackRun(CarliniWagner(), "margin")), THREAT_MODEL)


def test_attack_names_are_unique():
    protocol = Protocol("mine", 1, (AttackRun(PGD()), AttackRun(PGD(steps=3))), THREAT_MODEL)
    assert protocol.attack_names == ("1-pgd-cross_entropy", "2-pgd-cross_entropy")


def test_the_folder_name_says_what_is_measured():
    assert get_protocol("clean").folder == "clean-v1"
    assert get_protocol("pgd20", epsilon="4/255").folder == "pgd20-v1-linf-4_255"
    assert get_protocol("pgd20", epsilon="4/255", samples=9, sample_choice="first").folder.endswith("4_255-first9")


def test_all_images_unless_asked_otherwise():
    assert get_protocol("clean").choose(5, seed=0) == [0, 1, 2, 3, 4]
    assert get_protocol("clean", samples=9).choose(5, seed=0) == [0, 1, 2, 3, 4]


def test_the_first_images():
    assert get_protocol("clean", samples=3, sample_choice="first").choose(100, seed=1) == [0, 1, 2]


def test_images_drawn_by_the_seed():
    protocol = get_protocol("clean", samples=30)
    drawn = protocol.choose(100, seed=0)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 30
    assert drawn == protocol.choose(100, seed=0) != protocol.choose(100, seed=1)


def test_a_row_can_say_all_of_it():
    protocol = get_protocol("pgd20", epsilon="4/255")
    told = protocol.as_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["attacks"][0]["parameters"]["steps"] == 20
    rare = {"_", "text_attack", "native_datasets", "temperature", "compiled", "objective"}
    rare |= {"test_time_defence", "attacks_know"}
    assert told.keys() == {field for field in Protocol.__dataclass_fields__ if field not in rare}


def test_a_row_says_what_is_rare_where_it_is_there():
    protocol = Protocol(
        "mine", 1, ATTACKS, THREAT_MODEL, text_attack=LEAF(), resolution="listed", temperature=0.05, compiled=True
    )
    told = json.loads(json.dumps(protocol.as_dict()))
    assert told["text_attack"]["attack"] == "LEAF"
    assert (told["native_datasets"], told["temperature"]) == (["cifar10", "cifar100", "stl10"], 0.05)
    assert told["compiled"] is True


def test_the_grid_of_listed_data_sets_is_their_own():
    protocol = Protocol("mine", 1, ATTACKS, THREAT_MODEL, resolution="listed")
    assert [protocol.resolution_for(name) for name in ("cifar10", "eurosat")] == ["native", "model"]
    assert Protocol("mine", 1, ATTACKS, THREAT_MODEL).resolution_for("eurosat") == "native"


@pytest.mark.parametrize(
    ("attacks", "text_attack", "domain", "names"),
    [
        ((), None, "nothing", ()),
        (ATTACKS, None, "image", ("1-pgd-cross_entropy",)),
        ((), LEAF(), "text", ("1-leaf",)),
        (ATTACKS, LEAF(), "both", ("1-pgd-cross_entropy+leaf",)),
    ],
)
def test_the_domain_is_what_is_attacked(attacks, text_attack, domain, names):
    protocol = Protocol("mine", 1, attacks, THREAT_MODEL if attacks else None, text_attack=text_attack)
    assert (protocol.domain, protocol.attack_names, len(protocol.stages)) == (domain, names, len(names))
