"""Protocols are values that say all they mean."""

import json

import pytest

from robust_clip.attacks import PGD
from robust_clip.evaluation import PROTOCOLS, AttackRun, Protocol, get_protocol
from robust_clip.threat_model import ThreatModel

ATTACKS = (AttackRun(PGD()),)
THREAT_MODEL = ThreatModel("linf", "4/255")


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="'pgd7', known: clean, pgd20, pgd100"):
        get_protocol("pgd7")


def test_presets_are_registered_under_their_names():
    assert {name: protocol.name for name, protocol in PROTOCOLS.items()} == {name: name for name in PROTOCOLS}


def test_a_preset_is_changed_where_asked():
    protocol = get_protocol("pgd20", epsilon="4/255", samples=100, resolution="model")
    assert (protocol.threat_model, protocol.samples, protocol.resolution) == (THREAT_MODEL, 100, "model")
    assert protocol.attacks == PROTOCOLS["pgd20"].attacks
    assert get_protocol("pgd20") == PROTOCOLS["pgd20"]


def test_clean_takes_no_epsilon():
    with pytest.raises(ValueError, match="no attacks, so it takes no epsilon"):
        get_protocol("clean", epsilon="1/255")


def test_epsilon_is_checked():
    with pytest.raises(ValueError, match="did you mean 4/255"):
        get_protocol("pgd20", epsilon=4)


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


@pytest.mark.parametrize("loss", ["embedding_distance", "hinge"])
def test_a_loss_without_labels_is_refused(loss):
    with pytest.raises(ValueError, match="cross_entropy.*margin.*got"):
        AttackRun(PGD(), loss)


def test_attack_names_are_unique():
    protocol = Protocol("mine", 1, (AttackRun(PGD()), AttackRun(PGD(steps=3))), THREAT_MODEL)
    assert protocol.attack_names == ("1-pgd-cross_entropy", "2-pgd-cross_entropy")


def test_the_folder_name_says_what_is_measured():
    assert PROTOCOLS["clean"].folder == "clean-v1"
    assert get_protocol("pgd20", epsilon="4/255").folder == "pgd20-v1-linf-4_255"
    assert get_protocol("pgd20", epsilon="4/255", samples=9, sample_choice="first").folder.endswith("4_255-first9")


def test_all_images_unless_asked_otherwise():
    assert PROTOCOLS["clean"].choose(5, seed=0) == [0, 1, 2, 3, 4]
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
    assert told.keys() == {field for field in Protocol.__dataclass_fields__ if field != "_"}
