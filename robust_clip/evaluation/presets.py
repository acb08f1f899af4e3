"""Named protocols: general ones, and those of the papers, each with where its constants come from.

Two names are easily mixed up. `cw` is what papers on robust CLIP call CW: PGD on the margin loss, inside a ball of a
fixed radius. `cw_l2` is the attack of Carlini and Wagner themselves, which looks for the smallest change in l2; an
image counts as broken if it finds one inside the ball.
"""

from collections.abc import Sequence
from typing import Any

from robust_clip.attacks import (
    APGD,
    LEAF,
    PGD,
    VERSIONS,
    AttackRun,
    BERTAttack,
    CarliniWagner,
    Square,
    TextAttack,
    WordList,
)
from robust_clip.threat_model import ThreatModel

from .protocol import Protocol

_ONE, _TWO, _FOUR = (ThreatModel("linf", f"{size}/255") for size in (1, 2, 4))


def _pgd(steps: int) -> Protocol:
    return Protocol(
        f"pgd{steps}",
        version=1,
        attacks=(AttackRun(PGD(steps=steps, stop_when_fooled=True)),),
        threat_model=_ONE,
        source=(
            f"PGD-{steps} as papers on zero-shot robustness run it; the step of epsilon/4 is ours: theirs is epsilon, "
            "which jumps between corners of the ball"
        ),
    )


def _of_paper(name: str, attacks: Sequence[AttackRun], source: str, **fields: Any) -> Protocol:
    settings: dict[str, Any] = {"version": 1, "threat_model": _ONE, "resolution": "listed"} | fields
    return Protocol(name, attacks=tuple(attacks), source=source, **settings)


_TECOA_PAIR = (AttackRun(APGD(), "cross_entropy"), AttackRun(APGD(), "dlr"))
_TECOA_PGD = (AttackRun(PGD(steps=100, step_size="1/255")),)
_TECOA_CW = (AttackRun(PGD(steps=100, step_size="1/255"), "margin"),)
# As Pillow resizes, and with it the checkpoint's processor.
_ENLARGED = "; small images are enlarged bicubically with antialiasing and cut to [0, 1], where the code does neither"
_RESIZED = "; images are resized bicubically to the model's side and cropped, where the code resizes bilinearly to 256"
_GRIDS = f"{_RESIZED}{_ENLARGED}"
_TECOA = f"TeCoA (2212.07016), Section 4 and code{_GRIDS}"
_PMG = f"PMG-AFT (2401.04350), code but for its missing temperature and its ImageNet normalisation{_GRIDS}"
_TGA = (
    "TGA-ZSR (2410.21802), code: all images, CIFAR's too, are attacked at the model's resolution; they are resized to "
    "it bicubically and cropped, where the paper's code does so bilinearly, and to 256 those of larger sets"
)
_CAW = "CAW, attacks as named in its tables; the variant of AutoAttack and the steps' size are not stated and are ours"
_TIMA = (
    "TIMA, attacks and epsilons as its abstract and summaries name them; size of steps, variant of AutoAttack and "
    "temperatures are ours"
)
_MMCOA = f"MMCoA (2404.19287), training code, whose other script attacks Tiny-ImageNet at 224 pixels{_GRIDS}"
_FARE = "FARE (2402.12336), code: its AutoAttack is APGD-CE with 5 restarts and APGD-T"
_FARE_PAIR = (AttackRun(APGD(restarts=5), "cross_entropy"), AttackRun(APGD(targets=9), "dlr"))
_MMCOA_GRIDS: dict[str, Any] = {"native_datasets": ("cifar10", "cifar100", "stl10", "tiny_imagenet")}
_MMCOA_JOINT = (AttackRun(PGD(steps=100, step_size="1/255"), "joint_divergence"),)


def _mmcoa(text_attack: TextAttack, suffix: str = "") -> tuple[Protocol, ...]:
    source = _with(_MMCOA, suffix)
    return (
        _of_paper("mmcoa_image", _TECOA_PGD, _MMCOA, **_MMCOA_GRIDS),
        _of_paper(f"mmcoa_text{suffix}", (), source, threat_model=None, text_attack=text_attack, **_MMCOA_GRIDS),
        _of_paper(f"mmcoa_both{suffix}", _TECOA_PGD, source, text_attack=text_attack, **_MMCOA_GRIDS),
    )


def _joint(text_attack: TextAttack, suffix: str = "") -> tuple[Protocol, ...]:
    source = _with(f"{_MMCOA}; its joint attack, which pushes images away from the attacked prompts", suffix)
    return (_of_paper(f"mmcoa_joint{suffix}", _MMCOA_JOINT, source, text_attack=text_attack, **_MMCOA_GRIDS),)


def _with(source: str, suffix: str) -> str:
    return f"{source}, with another attack on the prompts" if suffix else source


PRESETS: dict[str, tuple[Protocol, ...]] = {
    "clean": (Protocol("clean", version=1, attacks=(), threat_model=None),),
    "pgd20": (_pgd(20),),
    "pgd100": (_pgd(100),),
    "cw": (
        Protocol(
            "cw",
            version=1,
            attacks=(AttackRun(PGD(steps=100, stop_when_fooled=True), "margin"),),
            threat_model=_ONE,
            source="PGD-100 on the margin loss, which papers on robust CLIP call CW; the step of epsilon/4 is ours",
        ),
    ),
    "cw_l2": (
        Protocol(
            "cw_l2",
            version=1,
            attacks=(AttackRun(CarliniWagner(), "margin"),),
            threat_model=ThreatModel("l2", 0.5),
            source=(
                "Carlini and Wagner (1608.04644), their own l2 attack with 9 runs of 1000 steps (theirs: 10,000), and "
                "not the PGD that papers on robust CLIP call CW; the radius is RobustBench's for CIFAR-10"
            ),
        ),
    ),
    "embedding": (
        Protocol(
            "embedding",
            version=1,
            attacks=(AttackRun(PGD(steps=100), "embedding_distance"),),
            threat_model=_ONE,
            source=(
                "PGD-100 on the distance from the clean image's embedding, FARE's inner attack (2402.12336), which "
                "knows neither labels nor classes; the step of epsilon/4 is ours"
            ),
        ),
    ),
    "apgd_ce": (Protocol("apgd_ce", 1, (AttackRun(APGD()),), _ONE, source="first component of AutoAttack"),),
    "apgd_t": (
        Protocol("apgd_t", 1, (AttackRun(APGD(targets=9), "dlr"),), _ONE, source="second component of AutoAttack"),
    ),
    "square": (Protocol("square", 1, (AttackRun(Square(), "margin"),), _ONE, source="last component of AutoAttack"),),
    "autoattack_standard": (
        Protocol("autoattack_standard", 1, VERSIONS["standard"], _FOUR, source="AutoAttack (2003.01690), standard"),
    ),
    "autoattack_standard_without_fab": (
        Protocol(
            "autoattack_standard_without_fab",
            1,
            VERSIONS["standard_without_fab"],
            _FOUR,
            source="AutoAttack (2003.01690), standard but for FAB-T, so not AutoAttack as published",
        ),
    ),
    "autoattack_plus": (
        Protocol("autoattack_plus", 1, VERSIONS["plus"], _FOUR, source="AutoAttack (2003.01690), plus"),
    ),
    "autoattack_rand": (
        Protocol("autoattack_rand", 1, VERSIONS["rand"], _FOUR, source="AutoAttack (2003.01690), rand"),
    ),
    "robustbench_imagenet": (
        _of_paper(
            "robustbench_imagenet",
            VERSIONS["standard"],
            # Version 1 drew its images by the seed. Where the data set's files have lost their names, so does this,
            # and the row says so.
            f"RobustBench (2010.09670), ImageNet linf, with its fixed list of 5000 images{_RESIZED}",
            version=2,
            threat_model=_FOUR,
            resolution="model",
            samples=5000,
            sample_choice="robustbench",
        ),
    ),
    "tecoa": (_of_paper("tecoa", _TECOA_PGD, _TECOA),),
    "tecoa_cw": (_of_paper("tecoa_cw", _TECOA_CW, _TECOA),),
    "tecoa_aa": (
        _of_paper("tecoa_aa", _TECOA_PAIR, f"{_TECOA}; its AutoAttack is APGD-CE and untargeted APGD-DLR alone"),
    ),
    "pmg_aft": (
        _of_paper("pmg_aft_pgd10", (AttackRun(PGD(steps=10, step_size="1/255")),), _PMG),
        _of_paper("pmg_aft_autoattack", VERSIONS["standard"], _PMG),
        _of_paper("pmg_aft_cw", (AttackRun(PGD(steps=10, step_size="1/255"), "margin"),), _PMG),
    ),
    "tga_zsr": (
        _of_paper("tga_zsr_pgd100", _TECOA_PGD, _TGA, resolution="model"),
        _of_paper(
            "tga_zsr_aa",
            _TECOA_PAIR,
            f"{_TGA}; its AutoAttack is APGD-CE and untargeted APGD-DLR alone",
            resolution="model",
        ),
        _of_paper("tga_zsr_cw", _TECOA_CW, _TGA, resolution="model"),
    ),
    "caw": (
        _of_paper("caw_autoattack", VERSIONS["standard"], _CAW),
        _of_paper("caw_pgd100", _TECOA_PGD, _CAW),
        _of_paper("caw_cw", _TECOA_CW, _CAW),
    ),
    "tima": (
        *(
            _of_paper(
                "tima_pgd10", (AttackRun(PGD(steps=10)),), _TIMA, threat_model=ThreatModel("linf", f"{size}/255")
            )
            for size in range(1, 9)
        ),
        *(
            _of_paper("tima_autoattack", VERSIONS["standard"], _TIMA, threat_model=ThreatModel("linf", f"{size}/255"))
            for size in range(1, 9)
        ),
        *(
            _of_paper("tima_pgd10", (AttackRun(PGD(steps=10)),), _TIMA, temperature=temperature)
            for temperature in (0.02, 0.05, 0.1)
        ),
    ),
    "mmcoa": _mmcoa(BERTAttack()),
    "mmcoa_leaf": _mmcoa(LEAF(), "_leaf"),
    "mmcoa_word_list": _mmcoa(WordList(), "_word_list"),
    "mmcoa_joint": _joint(BERTAttack()),
    "mmcoa_joint_leaf": _joint(LEAF(), "_leaf"),
    "mmcoa_joint_word_list": _joint(WordList(), "_word_list"),
    "fare": (
        _of_paper(
            "fare",
            _FARE_PAIR,
            # Version 1 took the first images, of which a split in the order of its classes has a few classes alone.
            f"{_FARE}, on 1000 images, theirs of a shuffled stream, ours drawn by the seed{_ENLARGED}; for ImageNet "
            "there is fare_imagenet",
            version=2,
            threat_model=_TWO,
            samples=1000,
            templates="clip",
        ),
    ),
    "fare_imagenet": (
        _of_paper(
            "fare_imagenet",
            _FARE_PAIR,
            f"{_FARE}, on RobustBench's 5000 images",
            threat_model=_TWO,
            resolution="model",
            samples=5000,
            sample_choice="robustbench",
            templates="clip",
        ),
    ),
}
