"""A protocol with parts of it changed, as far as they can be."""

from collections.abc import Sequence
from dataclasses import replace

from robust_clip.attacks import BERTAttack
from robust_clip.threat_model import Norm, ThreatModel, format_size

from .protocol import Protocol


def with_masked_lm(protocol: Protocol, masked_lm: str) -> Protocol:
    """The protocol with another masked language model, if it uses one, else as it is."""
    attack = protocol.text_attack
    if not isinstance(attack, BERTAttack):
        return protocol
    return replace(protocol, text_attack=replace(attack, masked_lm=masked_lm))


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
