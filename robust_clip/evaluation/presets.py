"""Named protocols: general ones, and those of the papers, each with where its constants come from."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from robust_clip.attacks import APGD, LEAF, PGD, VERSIONS, AttackRun, BERTAttack, Square, TextAttack, WordList
from robust_clip.threat_model import ThreatModel

from .protocol import Precision, Protocol, Resolution, SampleChoice, Templates

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
    settings: dict[str, Any] = {"threat_model": _ONE, "resolution": "listed"} | fields
    return Protocol(name, version=1, attacks=tuple(attacks), source=source, **settings)


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
            "RobustBench (2010.09670), ImageNet linf; its 5000 images are a fixed list, ours are drawn by the seed",
            threat_model=_FOUR,
            resolution="model",
            samples=5000,
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
    masked_lm: str | None = None,
    **fields: Any,
) -> list[Protocol]:
    """The protocols of a preset, with what is not `None` in place of their own fields.

    Args:
        name: Key of `PRESETS`.
        epsilons: Radii in the preset's norm, each a number or text such as `"4/255"`; every protocol that attacks
            images is run at each of them, in place of its own.
        masked_lm: Hub id or path of the masked language model of attacks on texts that use one.
        fields: Fields of `Protocol`: `resolution`, `samples`, `sample_choice`, `templates`, `precision`,
            `temperature`, `compiled`.

    Raises:
        ValueError: If the name is unknown, a field has no such value, or no protocol of the preset takes what is
            given.

    Example:
        >>> [str(protocol.threat_model) for protocol in get_protocols("pgd20", epsilons=["1/255", "4/255"])]
        ['linf 1/255', 'linf 4/255']
    """
    if name not in PRESETS:
        raise ValueError(f"unknown protocol {name!r}, known: {', '.join(PRESETS)}")
    preset = PRESETS[name]
    if epsilons and not any(protocol.threat_model for protocol in preset):
        raise ValueError(f"protocol {name!r} does not attack images, so it takes no epsilon, got {list(epsilons)}")
    fields = {field: value for field, value in fields.items() if value is not None}
    if masked_lm is not None:
        preset = tuple(_with_masked_lm(protocol, masked_lm) for protocol in preset)
        if preset == PRESETS[name] and not any(isinstance(p.text_attack, BERTAttack) for p in preset):
            raise ValueError(f"no attack of protocol {name!r} uses a masked language model, got {masked_lm!r}")
    found = []
    for protocol in preset:
        if protocol.threat_model and epsilons:
            threats = [ThreatModel(protocol.threat_model.norm, epsilon) for epsilon in epsilons]
            found += [replace(protocol, threat_model=threat, **fields) for threat in threats]
        else:
            found.append(replace(protocol, **fields))
    return list(dict.fromkeys(found))


def get_protocol(
    name: str,
    *,
    epsilon: float | str | None = None,
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


def _with_masked_lm(protocol: Protocol, masked_lm: str) -> Protocol:
    attack = protocol.text_attack
    if not isinstance(attack, BERTAttack):
        return protocol
    return replace(protocol, text_attack=replace(attack, masked_lm=masked_lm))
