"""A protocol with parts of it changed, as far as they can be."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from robust_clip.attacks import BERTAttack
from robust_clip.models import TestTimeDefence
from robust_clip.threat_model import Norm, ThreatModel, format_size

from .protocol import Protocol, UndefendedRun


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
