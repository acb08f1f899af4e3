"""Full fine-tuning: which towers learn, and how much of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from robust_clip.models import TOWERS, RobustCLIPModel

from .base import check_towers

# What of a tower comes after its blocks, and learns with the last of them.
_HEADS = {
    "vision": ("vision_model.post_layernorm.", "visual_projection."),
    "text": ("text_model.final_layer_norm.", "text_projection."),
}
_BLOCK = re.compile(r"(vision|text)_model\.encoder\.layers\.(\d+)\.")


@dataclass(frozen=True)
class FullFineTuning:
    """Every parameter of the named towers learns, with its projection; all else is frozen.

    Args:
        towers: `vision`, `text`, or both. TeCoA and its successors train the vision tower.
        logit_scale: Whether the temperature learns; TeCoA's code keeps it constant.
        last_layers: For each tower named here how many of its last blocks learn, with what follows them, instead of
            the whole tower: the part that is tuned in TeCoA's study of trained parameters
            (https://huggingface.co/papers/2212.07016, section 4.3). 0 leaves the projection and the norm before it.

    Raises:
        ValueError: On an unknown tower or none, or a number of layers that is no count. `apply` refuses more layers
            than the tower has.
    """

    towers: Sequence[str] = ("vision",)
    logit_scale: bool = False
    last_layers: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_towers(self.towers)
        for tower, count in self.last_layers.items():
            if tower not in self.towers:
                raise ValueError(f"last_layers names {tower!r}, which is none of the towers {list(self.towers)}.")
            if not isinstance(count, int) or count < 0:
                raise ValueError(f"last_layers.{tower} must be 0 or a positive integer, got {count!r}.")

    def apply(self, model: RobustCLIPModel) -> RobustCLIPModel:
        """Sets `requires_grad` of every parameter of `model` and returns it.

        Raises:
            ValueError: If a tower has fewer blocks than should learn.
        """
        firsts = {tower: self._first_block(model, tower) for tower in self.last_layers}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self._learns(name, firsts))
        return model

    def _learns(self, name: str, firsts: Mapping[str, int]) -> bool:
        if name == "logit_scale":
            return self.logit_scale
        for tower in self.towers:
            if name.partition(".")[0] not in TOWERS[tower]:
                continue
            block = _BLOCK.match(name)
            if tower not in firsts or name.startswith(_HEADS[tower]):
                return True
            return block is not None and int(block[2]) >= firsts[tower]
        return False

    def _first_block(self, model: RobustCLIPModel, tower: str) -> int:
        blocks = len(getattr(model, f"{tower}_model").encoder.layers)
        if self.last_layers[tower] > blocks:
            raise ValueError(
                f"last_layers.{tower} is {self.last_layers[tower]}, but the {tower} tower has {blocks} blocks; "
                "leave it out to train all of them with the embeddings."
            )
        return blocks - self.last_layers[tower]
