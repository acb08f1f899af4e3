"""Named protocols: every paper's, changed where asked, and never in silence."""

import hashlib
import json

import pytest

from robust_clip.attacks import FAB, PGD, VERSIONS, BERTAttack, Square
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
            what = vars(protocol) | {"threat_model": None, "temperature": None}  # which tables name beside them
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


def test_another_norm_takes_another_radius():
    for name in ("pgd20", "apgd_ce", "autoattack_standard", "fare"):
        (protocol,) = get_protocols(name, norm="l2", epsilons=["0.5"])
        assert (str(protocol.threat_model), protocol.attacks) == ("l2 0.5", PRESETS[name][0].attacks)
        assert "-l2-0.5" in protocol.folder
    assert get_protocol("cw_l2", epsilon=3).threat_model == get_protocol("cw_l2", norm="l2", epsilon=3).threat_model
    assert get_protocol("pgd20", norm="linf") == get_protocol("pgd20")
    assert [str(p.threat_model) for p in get_protocols("mmcoa_leaf")] == ["linf 1/255", "None", "linf 1/255"]


@pytest.mark.parametrize(
    ("name", "norm", "epsilons", "message"),
    [
        ("pgd20", "l2", [], "a radius of linf means nothing in l2: give an epsilon for it, such as 0.5"),
        ("cw_l2", "linf", ["4/255"], "CarliniWagner keeps to l2 alone"),
        ("tecoa", "l2", ["0.5"], "pgd-cross_entropy of protocol 'tecoa' has steps of 1/255 in linf, which mean"),
        ("caw", "l2", ["0.5"], "of protocol 'caw_pgd100' has steps of 1/255 in linf"),
        ("mmcoa", "l2", ["0.5"], "of protocol 'mmcoa_image' has steps of 1/255 in linf"),
        ("clean", "l2", ["0.5"], "does not attack images, so it takes no epsilon and no norm"),
        ("clean", "l2", [], "does not attack images, so it takes no epsilon and no norm, got 'l2'"),
        ("pgd20", "l1", ["0.5"], "unknown norm 'l1', known: linf, l2"),
    ],
)
def test_a_norm_that_a_protocol_cannot_be_run_in_is_refused(name, norm, epsilons, message):
    with pytest.raises(ValueError, match=message):
        get_protocols(name, norm=norm, epsilons=epsilons)


def test_two_attacks_go_by_the_name_of_carlini_and_wagner():
    (papers,), (own,) = PRESETS["cw"], PRESETS["cw_l2"]
    assert [str(run) for run in papers.attacks + own.attacks] == ["pgd-margin", "carlini_wagner-margin"]
    assert "which papers on robust CLIP call CW" in papers.source
    assert "not the PGD that papers on robust CLIP call CW" in own.source


def test_robustbench_has_images_of_its_own():
    (protocol,) = PRESETS["robustbench_imagenet"]
    assert (protocol.version, protocol.samples, protocol.sample_choice) == (2, 5000, "robustbench")
    assert "fixed list of 5000 images" in protocol.source


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
    assert (fare.samples, fare.sample_choice, fare.attacks[0].attack.restarts) == (1000, "random", 5)
    (imagenet,) = PRESETS["fare_imagenet"]
    assert imagenet.attacks == fare.attacks
    assert (imagenet.samples, imagenet.sample_choice, imagenet.resolution) == (5000, "robustbench", "model")
    assert {run.eot_samples for run in VERSIONS["rand"]} == {20}
    assert all(protocol.resolution == "model" for protocol in PRESETS["tga_zsr"])


STEP = 1 / 255
PAPERS = {  # methods.md and protocols.md: attack, steps, step size, restarts, targets, loss, epsilons, grid
    "tecoa": [("PGD", 100, STEP, 1, None, "cross_entropy", ["1/255"], "listed")],
    "tecoa_aa": [
        ("APGD", 100, None, 1, None, "cross_entropy", ["1/255"], "listed"),
        ("APGD", 100, None, 1, None, "dlr", ["1/255"], "listed"),
    ],
    "tecoa_cw": [("PGD", 100, STEP, 1, None, "margin", ["1/255"], "listed")],
    "pmg_aft_cw": [("PGD", 10, STEP, 1, None, "margin", ["1/255"], "listed")],
    "tga_zsr_cw": [("PGD", 100, STEP, 1, None, "margin", ["1/255"], "model")],
    "pmg_aft_pgd10": [("PGD", 10, STEP, 1, None, "cross_entropy", ["1/255"], "listed")],
    "tga_zsr_pgd100": [("PGD", 100, STEP, 1, None, "cross_entropy", ["1/255"], "model")],
    "tga_zsr_aa": [
        ("APGD", 100, None, 1, None, "cross_entropy", ["1/255"], "model"),
        ("APGD", 100, None, 1, None, "dlr", ["1/255"], "model"),
    ],
    "caw_pgd100": [("PGD", 100, STEP, 1, None, "cross_entropy", ["1/255"], "listed")],
    "caw_cw": [("PGD", 100, STEP, 1, None, "margin", ["1/255"], "listed")],
    "tima_pgd10": [
        ("PGD", 10, None, 1, None, "cross_entropy", [f"{size}/255" for size in range(1, 9)], "listed"),
    ],
    "mmcoa_image": [("PGD", 100, STEP, 1, None, "cross_entropy", ["1/255"], "listed")],
    "mmcoa_both": [("PGD", 100, STEP, 1, None, "cross_entropy", ["1/255"], "listed")],
    "mmcoa_joint": [("PGD", 100, STEP, 1, None, "joint_divergence", ["1/255"], "listed")],
    "fare": [
        ("APGD", 100, None, 5, None, "cross_entropy", ["2/255"], "listed"),
        ("APGD", 100, None, 1, 9, "dlr", ["2/255"], "listed"),
    ],
    "autoattack_plus": [
        ("APGD", 100, None, 5, None, "cross_entropy", ["4/255"], "native"),
        ("APGD", 100, None, 5, None, "dlr", ["4/255"], "native"),
    ],
}


@pytest.mark.parametrize("name", PAPERS)
def test_attacks_of_the_papers(name):
    found = [protocol for preset in PRESETS.values() for protocol in preset if protocol.name == name]
    radii = list(dict.fromkeys(str(protocol.threat_model).removeprefix("linf ") for protocol in found))
    attacks = [
        (
            type(run.attack).__name__,
            run.attack.steps,
            getattr(run.attack, "step_size", None),
            run.attack.restarts,
            getattr(run.attack, "targets", None),
            run.loss,
            radii,
            found[0].resolution,
        )
        for run in found[0].attacks
        if not isinstance(run.attack, FAB | Square)  # of autoattack_plus, as in standard
    ]
    assert attacks[: len(PAPERS[name])] == PAPERS[name]
    assert len(attacks) == len(PAPERS[name]) or name == "autoattack_plus"


def test_temperatures_and_grids_of_the_papers():
    assert sorted({protocol.temperature or 0 for protocol in PRESETS["tima"]}) == [0, 0.02, 0.05, 0.1]
    grids = {protocol.native_datasets for name in ("mmcoa", "mmcoa_joint") for protocol in PRESETS[name]}
    assert grids == {("cifar10", "cifar100", "stl10", "tiny_imagenet")}


FROZEN = {  # of all that a row says of a protocol but the prose on its origin
    "apgd_ce v1": "19938e9f81805dd1",
    "apgd_t v1": "ecd2db78c03df510",
    "autoattack_plus v1": "e780a054ae381816",
    "autoattack_rand v1": "bdf2969b56d9281d",
    "autoattack_standard v1": "1a3da6b820ea7083",
    "autoattack_standard_without_fab v1": "581e82fdedc8aa68",
    "caw_autoattack v1": "b1b60e3ba92981cc",
    "caw_cw v1": "dcbe1a58d34dcad5",
    "caw_pgd100 v1": "e70ed141d0035928",
    "clean v1": "7e8b1a2f32f22389",
    "cw v1": "896ede731b81c2a5",
    "cw_l2 v1": "136c625ed9c5c838",
    "embedding v1": "ec52fd5aca5f5eb9",
    "fare v2": "25d773c5deaecb42",
    "fare_imagenet v1": "594a309e31985fb9",
    "mmcoa_both v1": "849f0361c79a2b1a",
    "mmcoa_both_leaf v1": "49f6eabfd0efae58",
    "mmcoa_both_word_list v1": "14c3619f0692f130",
    "mmcoa_image v1": "e1b685bbfef458d9",
    "mmcoa_joint v1": "d3e77fa84e57d118",
    "mmcoa_joint_leaf v1": "ca8f524253567e07",
    "mmcoa_joint_word_list v1": "4194797540e65c3b",
    "mmcoa_text v1": "5126187362ef00cd",
    "mmcoa_text_leaf v1": "2c331844e783ac59",
    "mmcoa_text_word_list v1": "b1e662f215a2e4fa",
    "pgd100 v1": "4df120bb76a21c4e",
    "pgd20 v1": "55ab7d16548fa47c",
    "pmg_aft_autoattack v1": "6fcb4a437428afef",
    "pmg_aft_cw v1": "0e022302517ed60e",
    "pmg_aft_pgd10 v1": "bdfb2b9974ed0c5e",
    "robustbench_imagenet v2": "30e6837ca22d2381",
    "square v1": "3e2c3369efa467e9",
    "tecoa v1": "c4ba1d2d1ea654bf",
    "tecoa_aa v1": "cd87b5681033dfb1",
    "tecoa_cw v1": "0c7ff689f6509115",
    "tga_zsr_aa v1": "3e0f6503e20c0cf8",
    "tga_zsr_cw v1": "dcd171b6d5076a07",
    "tga_zsr_pgd100 v1": "61cb1e0d718537f2",
    "tima_autoattack v1": "2c61b83d32845872",
    "tima_pgd10 v1": "c1583d8db45ea8d2",
}


def test_what_a_name_and_version_stand_for_is_frozen(tmp_path, monkeypatch):
    """Whoever changes a protocol gives it another version, and adds that here."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    told = {}
    for preset in PRESETS.values():
        for protocol in preset:
            what = protocol.as_dict()
            del what["source"]
            told.setdefault(f"{protocol.name} v{protocol.version}", set()).add(json.dumps(what, sort_keys=True))
    digests = {name: hashlib.sha256("".join(sorted(ways)).encode()).hexdigest()[:16] for name, ways in told.items()}
    assert digests == FROZEN
