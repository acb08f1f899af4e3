"""What a training step of an objective cost beside a clean step and beside its floor, in figures and as a table."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from .report import read_kept

NO_ATTACK = "no attack on images"


@dataclass(frozen=True)
class StepCost:
    """What was measured of one objective.

    Args:
        model: A size of `SIZES` or a checkpoint.
        objective: Its name.
        attack: On images, as a reader would call it.
        text_attack: On texts; `None` for none.
        adaptation: What learns; `None` for the objective's own towers.
        classes: Number of class prompts.
        batch_size: Images in a step.
        device: And its number of threads.
        precision: `fp32`, or `bf16` under autocast.
        repeats: Timed steps, of which medians are taken.
        version: Of this package, with the commit where there is one.
        clean_seconds: Of a clean step.
        seconds: Of the objective's step, attacks included.
        text_attack_seconds: Of that, the attack on texts.
        ratio: Median of the step without the attack on texts, in clean steps.
        floor: Least that it can be, by `step_floor`.
        clean_peak_mib: Peak memory of a clean step, allocated on the GPU or resident on a CPU; there of a process that
            gives back what it frees, which glibc by itself does not.
        peak_mib: That of the objective's.
        learning: Number of weights that learn.
        saved_bytes: Of the weights that a training saves.
    """

    model: str
    objective: str
    attack: str
    text_attack: str | None
    adaptation: str | None
    classes: int
    batch_size: int
    device: str
    precision: str
    repeats: int
    version: str
    clean_seconds: float
    seconds: float
    text_attack_seconds: float
    ratio: float
    floor: float
    clean_peak_mib: float
    peak_mib: float
    learning: int
    saved_bytes: int

    @property
    def setting(self) -> str:
        """What must be the same for two of them to be compared."""
        return f"{self.model}, {self.classes} classes, batch {self.batch_size}, {self.precision}, {self.device}"

    def __str__(self) -> str:
        own = "own" if self.attack == NO_ATTACK else "adversarial"
        lines = [
            f"{self.objective}, {self.attack}, on {self.setting}",
            f"clean step        {self.clean_seconds:8.3f} s",
            f"{own:<11} step  {self.seconds:8.3f} s   {self.batch_size / self.seconds:.1f} images/s",
        ]
        if self.text_attack:
            share = self.text_attack_seconds / self.seconds
            told = f"{self.text_attack}, {share:.1%} of the step, not below"
            lines.append(f"attack on texts   {self.text_attack_seconds:8.3f} s   {told}")
        times, memory = self.ratio / self.floor, self.peak_mib / self.clean_peak_mib
        lines += [
            f"ratio             {self.ratio:8.3f}",
            f"floor             {self.floor:8.3f}     the step costs {times:.3f} times its floor",
            f"peak memory       {self.peak_mib:8.0f} MiB, {memory:.3f} times a clean step's {self.clean_peak_mib:.0f}",
            f"weights that learn {self.learning:,}, {self.saved_bytes / 1e6:,.1f} MB on disk",
        ]
        return "\n".join(lines)


_TITLES = (
    "objective",
    "what learns",
    "attack",
    "s a step",
    "clean steps",
    "floor",
    "times its floor",
    "attack on texts",
    "peak MiB",
    "times a clean step's",
    "weights that learn",
    "MB on disk",
)


def cost_table(costs: Iterable[StepCost]) -> str:
    """Tables in Markdown, one for each setting."""
    parts = []
    ordered = sorted(costs, key=lambda cost: (cost.setting, cost.objective, cost.learning))
    for setting, group in groupby(ordered, key=lambda cost: cost.setting):
        rows = [_TITLES, ("---",) * len(_TITLES), *map(_cells, group)]
        parts.append(f"**{setting}**\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(parts)


def _cells(cost: StepCost) -> tuple[str, ...]:
    share = cost.text_attack_seconds / cost.seconds
    return (
        cost.objective,
        cost.adaptation or "the objective's towers",
        cost.attack,
        f"{cost.seconds:.2f}",
        f"{cost.ratio:.2f}",
        f"{cost.floor:.2f}",
        f"{cost.ratio / cost.floor:.2f}",
        f"{cost.text_attack}: {share:.0%}" if cost.text_attack else "",
        f"{cost.peak_mib:.0f}",
        f"{cost.peak_mib / cost.clean_peak_mib:.2f}",
        f"{cost.learning:,}",
        f"{cost.saved_bytes / 1e6:,.2f}",
    )


def read_costs(folder: Path) -> list[StepCost]:
    """What `--out` wrote into a folder.

    Raises:
        ValueError: If there is nothing, or a file is something else.
    """
    return read_kept(folder, "benchmark", lambda kept: StepCost(**kept))
