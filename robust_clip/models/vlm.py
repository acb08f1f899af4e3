"""A robust image tower inside a vision-language model of transformers."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedModel

from .modeling import RobustCLIPModel
from .packaged import packaged_checkpoint

# All that a tower computes with besides its weights. Some, as the number of heads, leave no trace in their shapes.
_ARCHITECTURE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
)


@torch.no_grad()
def swap_vision_tower(
    vlm: PreTrainedModel, robust: RobustCLIPModel | str | os.PathLike[str], processor: Any = None
) -> PreTrainedModel:
    """Gives a LLaVA-style model the weights of a robust CLIP's image tower, in place.

    The projector and the language model stay as they are, which works as far as the robust tower's features stay near
    those that they were trained on, as FARE's do (https://huggingface.co/papers/2402.12336). What is saved afterwards
    loads with stock transformers.

    Args:
        vlm: A model of transformers with one `CLIPVisionModel` and a `vision_feature_layer`, such as LLaVA, LLaVA-NeXT
            or VipLLaVA. The type and device of its weights stay, and so does what of them learns.
        robust: The model whose image tower is copied, or a folder or Hub id of one.
        processor: The processor of `vlm`, whose mean and deviation are then compared with those of `robust`.

    Returns:
        `vlm`, with what `robust` has on record about its training in the config of its tower.

    Raises:
        ValueError: If `vlm` has no CLIP tower or several, if the towers differ in shape, resolution, number of layers
            or activation, if pixels are normalised differently, if there are prompts or adapters in a tower, or if the
            weights of `vlm` are quantised or not in memory.
    """
    tower = _clip_tower(vlm)
    if isinstance(robust, str | os.PathLike):
        robust = RobustCLIPModel.from_pretrained(packaged_checkpoint(str(robust)))
    if not isinstance(robust, RobustCLIPModel):
        raise ValueError(f"robust must be a RobustCLIPModel, a folder or a Hub id, got {type(robust).__name__}.")
    _refuse_other_architecture(tower.config, robust.config.vision_config)
    _refuse_missing_layers(vlm.config.vision_feature_layer, tower.config.num_hidden_layers)
    if processor is not None:
        _refuse_other_normalisation(getattr(processor, "image_processor", processor), robust)
    ours, theirs = robust.vision_model.state_dict(), tower.state_dict()
    _refuse_other_weights(ours, theirs)
    for name, weight in theirs.items():
        weight.copy_(ours[name])
    tower.config.robustness = robust.config.robustness
    return vlm


def _clip_tower(vlm: PreTrainedModel) -> CLIPVisionModel:
    kind = type(vlm).__name__
    if getattr(vlm.config, "vision_feature_layer", None) is None:
        raise ValueError(
            f"{kind} is no LLaVA-style model: its config has no vision_feature_layer. Give one such as "
            "LlavaForConditionalGeneration or LlavaNextForConditionalGeneration."
        )
    towers = {name: module for name, module in vlm.named_modules() if isinstance(module, CLIPVisionModel)}
    if len(towers) != 1:
        found = ", ".join(towers) or f"a tower of type {vlm.config.vision_config.model_type!r}"
        raise ValueError(f"{kind} needs exactly one CLIP image tower to be replaced; found {found}.")
    return next(iter(towers.values()))


def _refuse_other_architecture(theirs: CLIPVisionConfig, ours: Any) -> None:
    different = []
    for name in _ARCHITECTURE:
        wanted, got = _as_square(getattr(theirs, name)), _as_square(getattr(ours, name))
        if wanted != got:
            different.append(f"{name} is {wanted} in the vision-language model and {got} in the robust one")
    if different:
        raise ValueError(
            f"The towers differ: {'; '.join(different)}. Give a robust CLIP of the architecture and resolution that "
            "the vision-language model was trained with."
        )


def _as_square(value: Any) -> Any:
    """Sides of a square in place of one side or a list of two, so that both ways of writing are equal."""
    pair = list(value) if isinstance(value, list | tuple) else None
    return pair[0] if pair and pair[0] == pair[-1] else value


def _refuse_missing_layers(wanted: int | list[int], n_layers: int) -> None:
    for layer in [wanted] if isinstance(wanted, int) else wanted:
        if not -n_layers - 1 <= layer <= n_layers:
            raise ValueError(
                f"vision_feature_layer is {layer}, but the tower has {n_layers} layers; it must be from "
                f"{-n_layers - 1} to {n_layers}, where 0 is what goes into the first layer."
            )


def _refuse_other_normalisation(image_processor: Any, robust: RobustCLIPModel) -> None:
    for name in ("image_mean", "image_std"):
        theirs, ours = getattr(image_processor, name, None), getattr(robust.config, name)
        # Rounding in a file of settings moves a pixel by less than a fortieth of a grey level.
        if theirs is None or any(abs(a - b) > 1e-4 for a, b in zip(theirs, ours, strict=True)):
            raise ValueError(
                f"{name} is {theirs} in the processor of the vision-language model and {ours} in the robust model; "
                "the tower must see pixels normalised as it was trained."
            )


def _refuse_other_weights(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    if ours.keys() != theirs.keys():
        names = ([*sorted(one.keys() - other.keys()), "nothing"][0] for one, other in ((ours, theirs), (theirs, ours)))
        raise ValueError(
            "The towers have other weights: {} only in the robust one, {} only in the vision-language model's. Merge "
            "adapters first (merge_and_unload); learned visual prompts cannot move.".format(*names)
        )
    for name, weight in theirs.items():
        if weight.is_meta or not weight.is_floating_point() or weight.shape != ours[name].shape:
            where = "not in memory" if weight.is_meta else f"{weight.dtype} of shape {tuple(weight.shape)}"
            raise ValueError(
                f"{name} of the vision-language model is {where}, not a plain weight of shape "
                f"{tuple(ours[name].shape)}; load it without quantisation, sharding or offloading."
            )
