"""Named protocols: every paper's, changed where asked, and never in silence."""

import pytest

from robust_clip.attacks import PGD, VERSIONS, BERTAttack
from robust_clip.evaluation import PRESETS, get_protocol, get_protocols
from robust_clip.threat_model import ThreatModel

FOUR = ThreatModel("linf", "4/255")


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="'pgd7', known: clean, pgd20, pgd100"):
        get_protocol("pgd7")


def test_every_protocol_of_a_preset_has_records_of_its_own():
    protocols = {protocol for preset in PRESETS.values() for protocol in preset}
    assert len({protocol.folder for protocol in protocols}) == len(protocols)


def test_one_name_and_version_stand_for_one_way_to_measure():
    told = {}
    for preset in PRESETS.values():
        for protocol in preset:
            what = (protocol.attacks, protocol.text_attack, protocol.resolution, protocol.templates, protocol.source)
            assert told.setdefault((protocol.name, protocol.version), what) == what


def test_every_protocol_names_its_source():
    assert all(protocol.source for preset in PRESETS.values() for protocol in preset)


def test_a_preset_is_changed_where_asked():
    protocol = get_protocol("pgd20", epsilon="4/255", samples=100, resolution="model")
    assert (protocol.threat_model, protocol.samples, protocol.resolution) == (FOUR, 100, "model")
    assert protocol.attacks == PRESETS["pgd20"][0].attacks
    assert (get_protocol("pgd20"),) == PRESETS["pgd20"]


def test_every_epsilon_is_a_protocol_and_none_comes_twice():
    assert [str(p.threat_model) for p in get_protocols("cw", epsilons=["1/255", "4/255"])] == [
        "linf 1/255",
        "linf 4/255",
    ]
    tima = get_protocols("tima", epsilons=["2/255"])
    assert {str(protocol.threat_model) for protocol in tima} == {"linf 2/255"}
    assert len(tima) == len(set(tima)) == 5  # PGD-10, AutoAttack, and three temperatures


def test_what_does_not_attack_images_takes_no_epsilon():
    with pytest.raises(ValueError, match="does not attack images, so it takes no epsilon"):
        get_protocol("clean", epsilon="1/255")


def test_epsilon_is_checked():
    with pytest.raises(ValueError, match="did you mean 4/255"):
        get_protocol("pgd20", epsilon=4)


def test_several_protocols_are_not_one():
    with pytest.raises(ValueError, match="several protocols .caw_autoattack, caw_pgd100, caw_cw.; use get_protocols"):
        get_protocol("caw")


def test_a_masked_language_model_goes_to_the_attacks_that_use_one():
    image, text, both = get_protocols("mmcoa", masked_lm="my/bert")
    assert (image.text_attack, text.text_attack) == (None, BERTAttack(masked_lm="my/bert"))
    assert both.domain == "both"
    with pytest.raises(ValueError, match="no attack of protocol 'pgd20' uses a masked language model"):
        get_protocols("pgd20", masked_lm="my/bert")


def test_constants_of_the_papers():
    """methods.md, sections 1 to 9."""
    (tecoa,) = PRESETS["tecoa"]
    assert tecoa.attacks[0].attack == PGD(steps=100, step_size="1/255")
    assert (tecoa.resolution, str(tecoa.threat_model)) == ("listed", "linf 1/255")
    apgd, targeted, fab, square = (run.attack for run in VERSIONS["standard"])
    assert (apgd.steps, apgd.restarts, apgd.rho, apgd.targets) == (100, 1, 0.75, None)
    assert (targeted.steps, targeted.targets) == (100, 9)
    assert (fab.steps, fab.targets) == (100, 9)
    assert (square.queries, square.p_init) == (5000, 0.8)
    (fare,) = PRESETS["fare"]
    assert (fare.samples, fare.sample_choice, fare.attacks[0].attack.restarts) == (1000, "first", 5)
    assert {run.eot_samples for run in VERSIONS["rand"]} == {20}
    assert all(protocol.resolution == "model" for protocol in PRESETS["tga_zsr"])
