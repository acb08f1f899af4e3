"""Protocols by the name of their preset, and with parts of them changed as far as they can be."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from robust_clip.attacks import BERTAttack
from robust_clip.models import TestTimeDefence
from robust_clip.threat_model import Norm, ThreatModel, format_size, require_radius

from .adaptive import climb_objective
from .presets import PRESETS
from .protocol import Precision, Protocol, Resolution, SampleChoice, Templates, UndefendedRun


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
            given, or a radius is 0.

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
    for protocol in found:
        if protocol.threat_model is not None:
            require_radius(protocol.threat_model)
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


def with_masked_lm(protocol: Protocol, masked_lm: str) -> Protocol:
    """The protocol with another masked language model, if it uses one, else as it is."""
    attack = protocol.text_attack
    if not isinstance(attack, BERTAttack):
        return protocol
    return replace(protocol, text_attack=replace(attack, masked_lm=masked_lm))


def with_test_time_defence(
    protocol: Protocol, defence: TestTimeDefence, attacks_know: bool, eot_samples: int = 4
) -> Protocol:
    """The protocol judged through a defence, by attacks that know of it or do not.

    Attacks that know of a random defence go on to their end where they can (`stop_when_fooled` is turned off). One
    that leaves an image as soon as the mean over its draws is fooled, as APGD does, leaves where the odds of the
    defence's draw are even.

    Attacks that know come first, and then, on what still stands, the same attacks on the undefended classifier.

    Args:
        protocol: Whose name gets a suffix, such as `_ttc_known`.
        defence: With its parameters, which the row repeats.
        attacks_know: Whether attacks go through the defence.
        eot_samples: For a random defence, draws that attacks that know take the mean over, unless they take more.

    Raises:
        ValueError: As `Protocol`.
    """
    suffix, source = defence.short_name, f"{protocol.source}; judged through a test-time defence"
    runs = protocol.attacks
    if runs:
        suffix += "_known" if attacks_know else "_unknown"
        source += f", of which the attacks {'know' if attacks_know else 'do not know'}"
    if attacks_know:
        draws = eot_samples if defence.random else 1
        through = (replace(run, eot_samples=max(run.eot_samples, draws)) for run in runs)
        if defence.random:
            through = (replace(run, attack=_to_the_end(run.attack)) for run in through)
        runs = (*through, *(UndefendedRun(run.attack, run.loss, run.eot_samples) for run in runs))
    return replace(
        protocol,
        name=f"{protocol.name}_{suffix}",
        attacks=runs,
        test_time_defence=defence,
        attacks_know=attacks_know or not runs,
        source=source,
    )


def _to_the_end(attack: Any) -> Any:
    return replace(attack, stop_when_fooled=False) if getattr(attack, "stop_when_fooled", False) else attack


def threat_models(
    protocol: Protocol, norm: Norm | None, epsilons: Sequence[float | str]
) -> Sequence[ThreatModel | None]:
    """What the attacks of a protocol may do, once for each radius.

    Args:
        protocol: Whose norm and radius are taken where others are not given.
        norm: In place of the protocol's own.
        epsilons: In place of the protocol's own radius.

    Returns:
        `None` alone for a protocol that does not attack images.

    Raises:
        ValueError: If another norm is given without a radius, or to an attack with a step of a fixed size.
    """
    own = protocol.threat_model
    if own is None:
        return (None,)
    if norm not in (None, own.norm):
        for run in protocol.attacks:
            if (size := getattr(run.attack, "step_size", None)) is not None:
                raise ValueError(
                    f"{run} of protocol {protocol.name!r} has steps of {format_size(size)} in {own.norm}, which mean "
                    f"nothing in {norm}: use pgd20 or pgd100, whose step is epsilon / 4, or an attack without a step"
                )
        if not epsilons:
            raise ValueError(f"a radius of {own.norm} means nothing in {norm}: give an epsilon for it, such as 0.5")
    return [ThreatModel(norm or own.norm, epsilon) for epsilon in epsilons] or (own,)
