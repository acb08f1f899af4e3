"""One attack with the loss that it climbs, as protocols and ensembles list them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from robust_clip.attacks.base import Attack, Forward
from robust_clip.attacks.embedding import EMBEDDING_LOSSES
from robust_clip.attacks.losses import LOSSES, AttackLoss

# Gives what an objective's inner attack sees: the function on pixels and the loss, of pixels and labels.
InnerProblem = Callable[[Tensor, Tensor], tuple[Forward, AttackLoss]]


@dataclass(frozen=True)
class Victim:
    """What an evaluation attacks, seen from its two ends.

    Args:
        classify: Logits `(B, C)` of pixels.
        embed: Un-normalised image features `(B, D)` of pixels, for losses on embeddings.
        inner_problem: What an objective's own attack climbs, for the loss `objective`.
        attacked_texts: `(C, D)`, embeddings of the attacked class prompts, for the loss `joint_divergence`.
    """

    classify: Forward
    embed: Forward | None = None
    inner_problem: InnerProblem | None = None
    attacked_texts: Tensor | None = None


@dataclass(frozen=True)
class AttackRun:
    """One attack and the loss that it climbs.

    Args:
        attack: The search.
        loss: Key of `LOSSES` (made from labels); of `EMBEDDING_LOSSES`: distance from the clean image's features, or
            divergence from these and from the attacked prompt of the true class; or `objective`: what the inner
            attack of a training objective climbs, for an attack that is adapted to the defence.
        eot_samples: Passes that each gradient is averaged over, for a model whose forward is random.

    Raises:
        ValueError: If the loss is unknown, or `eot_samples` is below 1.
    """

    attack: Attack
    loss: str = "cross_entropy"
    eot_samples: int = 1

    def __post_init__(self) -> None:
        """Refuse what no evaluation could run."""
        known = [*LOSSES, *EMBEDDING_LOSSES, "objective"]
        if self.loss not in known:
            raise ValueError(f"unknown attack loss {self.loss!r}, known: {', '.join(known)}")
        if self.eot_samples < 1:
            raise ValueError(f"eot_samples must be at least 1, got {self.eot_samples}")

    def __str__(self) -> str:
        """Short name for records: `pgd-cross_entropy`."""
        return f"{self.attack.short_name}-{self.loss}"

    def aim(self, victim: Victim, pixels: Tensor, labels: Tensor) -> tuple[Forward, AttackLoss]:
        """The function that the attack sees and the loss that it climbs.

        Args:
            victim: What is attacked.
            pixels: `(B, 3, H, W)` clean images.
            labels: `(B,)` true classes.

        Raises:
            ValueError: If the victim has not what the loss needs.
        """
        if self.loss in LOSSES:
            make: Any = LOSSES[self.loss]
            return victim.classify, make(labels)
        if self.loss == "objective":
            if victim.inner_problem is None:
                raise ValueError("the attack loss 'objective' needs to be told which objective; give one")
            return victim.inner_problem(pixels, labels)
        if victim.embed is None:
            raise ValueError(f"the attack loss {self.loss!r} needs image features, and this victim gives logits only")
        references = [victim.embed(pixels)]
        if self.loss == "joint_divergence":
            if victim.attacked_texts is None:
                raise ValueError(
                    f"the attack loss {self.loss!r} needs attacked class prompts; give an attack on texts"
                )
            references.append(victim.attacked_texts[labels])
        away: Any = EMBEDDING_LOSSES[self.loss]
        return victim.embed, away(*references)

    def as_dict(self) -> dict[str, Any]:
        """What a row says about this attack."""
        attack: Any = self.attack
        parameters = asdict(attack)
        if "runs" in parameters:  # of an ensemble
            parameters["runs"] = [run.as_dict() for run in attack.runs]
        told = {"attack": type(attack).__name__, "loss": self.loss, "parameters": parameters}
        return told | ({"eot_samples": self.eot_samples} if self.eot_samples > 1 else {})
