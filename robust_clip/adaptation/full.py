"""Full fine-tuning: which towers learn."""

from collections.abc import Sequence
from dataclasses import dataclass

from robust_clip.models import RobustCLIPModel

_TOWERS = {"vision": ("vision_model.", "visual_projection."), "text": ("text_model.", "text_projection.")}


@dataclass(frozen=True)
class FullFineTuning:
    """Every parameter of the named towers learns, with its projection; all else is frozen.

    Args:
        towers: `vision`, `text`, or both. TeCoA and its successors train the vision tower.
        logit_scale: Whether the temperature learns; TeCoA's code keeps it constant.

    Raises:
        ValueError: On an unknown tower or none.
    """

    towers: Sequence[str] = ("vision",)
    logit_scale: bool = False

    def __post_init__(self) -> None:
        unknown = [tower for tower in self.towers if tower not in _TOWERS]
        if unknown or not self.towers:
            raise ValueError(f"towers must be some of {', '.join(_TOWERS)}, got {self.towers!r}.")

    def apply(self, model: RobustCLIPModel) -> RobustCLIPModel:
        """Sets `requires_grad` of every parameter of `model` and returns it."""
        prefixes = tuple(prefix for tower in self.towers for prefix in _TOWERS[tower])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(prefixes) or (self.logit_scale and name == "logit_scale"))
        return model
