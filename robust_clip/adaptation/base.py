"""What an adaptation is: the part of a model that learns."""

from collections.abc import Sequence
from typing import Protocol

from robust_clip.models import TOWERS, RobustCLIPModel


class Adaptation(Protocol):
    """Which parameters learn; a frozen value, so that a recipe names its fields and a card prints them."""

    @property
    def towers(self) -> Sequence[str]:
        """The towers whose output training changes: `vision`, `text`, or both."""

    @property
    def logit_scale(self) -> bool:
        """Whether the temperature learns."""

    def apply(self, model: RobustCLIPModel) -> RobustCLIPModel:
        """Sets `requires_grad` of every parameter. What comes back may be another model around the same weights."""


def check_towers(towers: Sequence[str]) -> None:
    """Refuses names that are no towers.

    Raises:
        ValueError: On an unknown tower or none.
    """
    if isinstance(towers, str) or not towers or any(tower not in TOWERS for tower in towers):
        raise ValueError(f"towers must be some of {', '.join(TOWERS)}, got {towers!r}.")
