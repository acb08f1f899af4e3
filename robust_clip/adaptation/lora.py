"""Low-rank adapters and their kin: few weights beside frozen ones, through peft."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, get_peft_config
from torch import nn

from robust_clip.models import TOWERS, RobustCLIPModel
from robust_clip.paper import Paper

from .base import check_towers

# What the blocks of both towers are made of.
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
# What of peft's configuration says nothing of the adapter itself.
_OF_THE_FILE = ("base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping", "task_type")


@dataclass(frozen=True)
class PeftMethod:
    """Any method of peft that targets linear layers by name, such as `LOHA`, `LOKR`, `IA3`, `OFT` or `HRA`.

    The model stays a `RobustCLIPModel`. What is saved of it are peft's own files, which stock
    `PeftModel.from_pretrained(CLIPModel.from_pretrained(base), folder)` loads.

    Args:
        towers: `vision`, `text`, or both.
        target_modules: Last parts of the names of the linear layers beside which weights are added.
        peft_config: Arguments of the method's configuration in peft, and `peft_type`, its name there.

    Raises:
        ValueError: On an unknown tower or method, or arguments that peft refuses. `apply` refuses layers that the
            model does not have, and methods that begin by changing the weights that they stand beside.
    """

    towers: Sequence[str] = ("vision",)
    target_modules: Sequence[str] = LINEAR_LAYERS
    peft_config: Mapping[str, Any] = field(default_factory=dict)

    logit_scale: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_towers(self.towers)
        if isinstance(self.target_modules, str) or not self.target_modules:
            raise ValueError(f"target_modules must be a list of names such as q_proj, got {self.target_modules!r}.")
        self.config()

    def config(self) -> PeftConfig:
        """Peft's configuration, for the layers of these towers.

        Raises:
            ValueError: If peft does not know the method or an argument.
        """
        arguments = self._arguments()
        if arguments["peft_type"] not in PEFT_TYPE_TO_CONFIG_MAPPING:
            known = ", ".join(sorted(method.value for method in PEFT_TYPE_TO_CONFIG_MAPPING))
            raise ValueError(f"peft has no method {arguments['peft_type']!r}; it has {known}.")
        try:
            return get_peft_config(arguments | {"target_modules": self._pattern()})
        except (TypeError, ValueError) as error:
            raise ValueError(f"peft refuses {arguments}: {error}") from error

    def apply(self, model: RobustCLIPModel) -> RobustCLIPModel:
        """Adds the weights to `model`, freezes all others, and returns it.

        A model that comes with an adapter of this kind goes on with it.

        Raises:
            ValueError: If no layer has such a name, the model comes with an adapter of another kind, or the method
                changes the weights that it stands beside: then the model without it would not be the original.
        """
        if getattr(model, "peft_config", None):
            return self._go_on(model)
        layers = self._layers(model)
        before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
        model.add_adapter(self.config())
        for name, weight in before.items():
            adapted: Any = model.get_submodule(name)
            if not torch.equal(weight, adapted.get_base_layer().weight):
                raise ValueError(f"{self._arguments()} changes the weights of {name}; only additions can be adapters.")
        return model

    def _go_on(self, model: RobustCLIPModel) -> RobustCLIPModel:
        name, *others = model.active_adapters()
        adapter: Any = model.peft_config[name]
        theirs, ours = adapter.to_dict(), self.config().to_dict()
        different = [key for key in ours if key not in _OF_THE_FILE and theirs.get(key) != ours[key]]
        if others or different:
            found = {key: theirs.get(key) for key in different}
            raise ValueError(
                f"The model comes with the adapter {[name, *others]}, which is none of {self}: it has {found}. "
                "Train it on as it was made, or merge it first."
            )
        model.requires_grad_(False)
        model.set_adapter(name)
        return model

    def _arguments(self) -> dict[str, Any]:
        if "peft_type" not in self.peft_config:
            raise ValueError("peft_config needs a peft_type, such as LOHA; LoRA itself is the adaptation lora.")
        return dict(self.peft_config)

    def _pattern(self) -> str:
        """A regular expression for the full names of the layers, as peft matches it."""
        names = "|".join(map(re.escape, self.target_modules))
        towers = "|".join(part for tower in self.towers for part in TOWERS[tower])
        return rf"(?=({towers})\b)(.*\.)?({names})"

    def _layers(self, model: RobustCLIPModel) -> dict[str, nn.Linear]:
        pattern = re.compile(self._pattern())
        linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
        found = {name: layer for name, layer in linear.items() if pattern.fullmatch(name)}
        for target in self.target_modules:
            if not any(name.split(".")[-1] == target for name in found):
                known = sorted({name.split(".")[-1] for name in linear})
                near = difflib.get_close_matches(target, known, n=3) or known
                raise ValueError(
                    f"target_modules names {target!r}, but the {' and '.join(self.towers)} tower has no linear layer "
                    f"of that name; did you mean {' or '.join(near)}?"
                )
        return found


@dataclass(frozen=True)
class LoRA(PeftMethod):
    """Low-rank adaptation: `W x + lora_alpha / r * B A x`, of which A and B learn.

    Args:
        towers: `vision`, `text`, or both.
        target_modules: Last parts of the names of the linear layers that are adapted.
        peft_config: Further arguments of `peft.LoraConfig`, such as `use_dora: true`.
        r: Rank of B A.
        lora_alpha: Scale of what is added, divided by r.
        lora_dropout: Share of the adapters' inputs that is dropped in training; never in an attack.

    Raises:
        ValueError: As `PeftMethod`.
    """

    r: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.0

    paper: ClassVar[Paper] = Paper(
        title="LoRA: Low-Rank Adaptation of Large Language Models",
        arxiv_id="2106.09685",
        bibtex="""@inproceedings{hu2022lora,
  title = {{LoRA}: Low-Rank Adaptation of Large Language Models},
  author = {Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and Wang, Shean
    and Wang, Lu and Chen, Weizhu},
  booktitle = {International Conference on Learning Representations},
  year = {2022}
}""",
    )

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError(f"r, the rank, must be a positive integer, got {self.r}.")
        super().__post_init__()

    def _arguments(self) -> dict[str, Any]:
        own = {"r": self.r, "lora_alpha": self.lora_alpha, "lora_dropout": self.lora_dropout}
        if "peft_type" in self.peft_config or own.keys() & self.peft_config.keys():
            raise ValueError(f"peft_config of lora holds further arguments, not {sorted(self.peft_config)}.")
        return {"peft_type": "LORA", **own, **self.peft_config}
