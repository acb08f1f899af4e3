"""Named protocols: general ones, and those of the papers, each with where its constants come from.

Two names are easily mixed up. `cw` is what papers on robust CLIP call CW: PGD on the margin loss, inside a ball of a
fixed radius. `cw_l2` is the attack of Carlini and Wagner themselves, which looks for the smallest change in l2; an
image counts as broken if it finds one inside the ball.
"""

from collections.abc import Sequence
from dataclasses import replace
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
from robust_clip.threat_model import Norm, ThreatModel

from .adaptive import climb_objective
from .protocol import Precision, Protocol, Resolution, SampleChoice, Templates
from .variants import threat_models, with_masked_lm

_ONE, _FOUR = ThreatModel("linf", "1/255"), ThreatModel("linf", "4/255")


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
_RESIZED = "; images are resized by the checkpoint's processor, where the paper's code resizes to 256 and crops"
_TECOA = f"TeCoA (2212.07016), Section 4 and code{_RESIZED}"
_PMG = f"PMG-AFT (2401.04350), code but for its missing temperature and its ImageNet normalisation{_RESIZED}"
_TGA = f"TGA-ZSR (2410.21802), code: all images, CIFAR's too, are attacked at the model's resolution{_RESIZED}"
_CAW = "CAW, attacks as named in its tables; the variant of AutoAttack and the steps' size are not stated and are ours"
_TIMA = "TIMA, attacks and epsilons as its abstract and summaries name them; steps and AutoAttack variant are ours"
_MMCOA = f"MMCoA (2404.19287), code{_RESIZED}"
_FARE = "FARE (2402.12336), code: its AutoAttack is APGD-CE with 5 restarts and APGD-T, on the first 1000 images"
_MMCOA_GRIDS = ("cifar10", "cifar100", "stl10", "tiny_imagenet")


def _mmcoa(text_attack: TextAttack, suffix: str = "") -> tuple[Protocol, ...]:
    source = _MMCOA if not suffix else f"{_MMCOA}, with another attack on the prompts"
    grids: dict[str, Any] = {"native_datasets": _MMCOA_GRIDS}
    return (
        _of_paper("mmcoa_image", _TECOA_PGD, _MMCOA, **grids),
        _of_paper(f"mmcoa_text{suffix}", (), source, threat_model=None, text_attack=text_attack, **grids),
        _of_paper(f"mmcoa_both{suffix}", _TECOA_PGD, source, text_attack=text_attack, **grids),
    )


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
    "tecoa_aa": (
        _of_paper("tecoa_aa", _TECOA_PAIR, f"{_TECOA}; its AutoAttack is APGD-CE and untargeted APGD-DLR alone"),
    ),
    "pmg_aft": (
        _of_paper("pmg_aft_pgd10", (AttackRun(PGD(steps=10, step_size="1/255")),), _PMG),
        _of_paper("pmg_aft_autoattack", VERSIONS["standard"], _PMG),
    ),
    "tga_zsr": (
        _of_paper("tga_zsr_pgd100", _TECOA_PGD, _TGA, resolution="model"),
        _of_paper(
            "tga_zsr_aa",
            _TECOA_PAIR,
            f"{_TGA}; its AutoAttack is APGD-CE and untargeted APGD-DLR alone",
            resolution="model",
        ),
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
    "fare": (
        _of_paper(
            "fare",
            (AttackRun(APGD(restarts=5), "cross_entropy"), AttackRun(APGD(targets=9), "dlr")),
            _FARE,
            threat_model=ThreatModel("linf", "2/255"),
            samples=1000,
            sample_choice="first",
            templates="clip",
        ),
    ),
}


def get_protocols(
    name: str,
    *,
    epsilons: Sequence[float | str] = (),
    norm: Norm | None = None,
    objective: tuple[str, str] | None = None,
    masked_lm: str | None = None,
    **fields: Any,
) -> list[Protocol]:
    """The protocols of a preset, with what is not `None` in place of their own fields.

    A step of a fixed size is tied to the norm that its paper measures in: in l2, PGD with a step of 1/255 would hardly
    move, and the same share of another ball is a choice that no paper made. So a preset with such a step takes no
    other norm; `pgd20`, `pgd100` and `cw`, whose step is epsilon / 4, the attacks of AutoAttack, and `fare` do.

    Args:
        name: Key of `PRESETS`.
        epsilons: Radii, each a number or text such as `"4/255"`; every protocol that attacks images is run at each of
            them, in place of its own.
        norm: Of the threat model, in place of the preset's; another norm needs `epsilons` too.
        objective: Name and description of a training objective, whose loss the attacks climb that can; see
            `climb_objective`.
        masked_lm: Hub id or path of the masked language model of attacks on texts that use one.
        fields: Fields of `Protocol`: `resolution`, `samples`, `sample_choice`, `templates`, `precision`,
            `temperature`, `compiled`.

    Raises:
        ValueError: If the name is unknown, a field has no such value, or no protocol of the preset takes what is
            given.

    Example:
        >>> [str(protocol.threat_model) for protocol in get_protocols("pgd20", epsilons=["1/255", "4/255"])]
        ['linf 1/255', 'linf 4/255']
        >>> print(get_protocols("apgd_ce", norm="l2", epsilons=[0.5])[0].threat_model)
        l2 0.5
    """
    if name not in PRESETS:
        raise ValueError(f"unknown protocol {name!r}, known: {', '.join(PRESETS)}")
    preset = PRESETS[name]
    if (epsilons or norm) and not any(protocol.threat_model for protocol in preset):
        raise ValueError(
            f"protocol {name!r} does not attack images, so it takes no epsilon and no norm, got "
            f"{list(epsilons) or norm!r}"
        )
    if masked_lm is not None:
        if not any(isinstance(protocol.text_attack, BERTAttack) for protocol in preset):
            raise ValueError(f"no attack of protocol {name!r} uses a masked language model, got {masked_lm!r}")
        preset = tuple(with_masked_lm(protocol, masked_lm) for protocol in preset)
    if objective is not None:
        adapted = tuple(climb_objective(protocol, *objective) for protocol in preset)
        if adapted == preset:
            raise ValueError(
                f"no attack of protocol {name!r} can climb an objective's loss; PGD and untargeted APGD can, as in "
                "pgd20, pgd100 and apgd_ce"
            )
        preset = adapted
    given = {field: value for field, value in fields.items() if value is not None}
    found = [
        replace(protocol, threat_model=threat_model, **given)
        for protocol in preset
        for threat_model in threat_models(protocol, norm, epsilons)
    ]
    return list(dict.fromkeys(found))


def get_protocol(
    name: str,
    *,
    epsilon: float | str | None = None,
    norm: Norm | None = None,
    resolution: Resolution | None = None,
    samples: int | None = None,
    sample_choice: SampleChoice | None = None,
    templates: Templates | None = None,
    precision: Precision | None = None,
) -> Protocol:
    """The one protocol of a preset, with what is not `None` in place of its own fields; see `get_protocols`.

    Raises:
        ValueError: As `get_protocols`, or if the preset holds several protocols.

    Example:
        >>> print(get_protocol("pgd20", epsilon="4/255").threat_model)
        linf 4/255
    """
    found = get_protocols(
        name,
        epsilons=[] if epsilon is None else [epsilon],
        norm=norm,
        resolution=resolution,
        samples=samples,
        sample_choice=sample_choice,
        templates=templates,
        precision=precision,
    )
    if len(found) > 1:
        names = ", ".join(dict.fromkeys(protocol.name for protocol in found))
        raise ValueError(f"{name!r} is several protocols ({names}); use get_protocols")
    return found[0]
