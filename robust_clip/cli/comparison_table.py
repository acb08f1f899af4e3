"""Our attacks beside those of `pyautoattack`: what each did, in figures and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robust_clip.attacks import VERSIONS
from robust_clip.evaluation.records import OURS
from robust_clip.evaluation.side_by_side import short_revision

from .report import read_kept

PACKAGES = ("robust-clip", "pyautoattack")


@dataclass(frozen=True)
class Outcome:
    """What one attack of one package did.

    Args:
        plan: `in a row`, where an attack gets what the ones before it left standing, or `alone`.
        attack: Our name of the attack.
        package: `robust-clip` or `pyautoattack`.
        begun: Images that it was given, all of them classified rightly when clean.
        standing: Rows of the images that it left standing.
        seconds: Wall time.
        cpu_seconds: Time of all cores, which other work on the machine lengthens less.
        forward_passes: Of all images together, those with a backward pass included.
        backward_passes: Of all images together.
        version: Of this package, with the commit where there is one.
    """

    plan: str
    attack: str
    package: str
    begun: int
    standing: list[int]
    seconds: float
    cpu_seconds: float
    forward_passes: int
    backward_passes: int
    version: str = "unknown"


def format_comparison(identity: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """A table in Markdown: images standing, seconds, and passes for each image that an attack was given."""
    lines = [
        f"{identity['model']} ({short_revision(identity['revision'])}), {identity['dataset']}, "
        f"{identity['threat_model']}, {identity['n']} images, {identity['right_clean']} of them right clean, "
        f"seed {identity['seed']}, batches of {identity['batch_size']}, {identity['threads']} threads",
        "",
        "| attacks | attack | by | given | standing | % of all | seconds | CPU seconds | forward | with backward |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        given = max(1, outcome.begun)
        passes = f"{outcome.forward_passes / given:.0f} | {outcome.backward_passes / given:.0f}"
        lines.append(_format_line(outcome, identity["n"], passes))
    totals = [total for package in PACKAGES if (total := _total(outcomes, package))]
    lines += [_format_line(total, identity["n"], " | ") for total in totals]
    told = [f"Measured by {OURS} {', '.join(sorted({outcome.version for outcome in outcomes}))}."]
    if len(totals) == len(PACKAGES):
        ours, theirs = totals
        left = f"{len(ours.standing)} and {len(theirs.standing)} images stand in the end"
        # What took less than a hundredth of a second was rounded to nothing.
        wall, cpu = (getattr(theirs, unit) / max(0.01, getattr(ours, unit)) for unit in ("seconds", "cpu_seconds"))
        told.insert(0, f"{left}; theirs took {wall:.2f} times as long, {cpu:.2f} times in CPU seconds.")
    return "\n".join([*lines, "", " ".join(told)])


def read_comparisons(folder: Path) -> str:
    """Tables of what `--out` wrote into a folder.

    Raises:
        ValueError: If there is nothing, or a file is something else.
    """
    def table(kept: Any) -> str:
        return format_comparison(kept, [Outcome(**outcome) for outcome in kept["outcomes"]])

    return "\n\n".join(read_kept(folder, "compare", table))


def _total(outcomes: Sequence[Outcome], package: str) -> Outcome | None:
    """All attacks in a row together, once all of them are there."""
    found = [outcome for outcome in outcomes if outcome.plan == "in a row" and outcome.package == package]
    if len(found) < len(VERSIONS["standard"]):
        return None
    seconds, cpu = (sum(getattr(one, unit) for one in found) for unit in ("seconds", "cpu_seconds"))
    return replace(found[0], attack="all", standing=found[-1].standing, seconds=seconds, cpu_seconds=cpu)


def _format_line(outcome: Outcome, n: int, passes: str) -> str:
    standing = len(outcome.standing)
    cells = (outcome.plan, outcome.attack, outcome.package, str(outcome.begun), str(standing))
    numbers = (f"{100 * standing / n:.1f}", f"{outcome.seconds:.1f}", f"{outcome.cpu_seconds:.1f}", passes)
    return f"| {' | '.join(cells + numbers)} |"
