"""Two models of different kinds around the same weights."""

from typing import Any

import torch

from .modeling import RobustCLIPModel


def built_around(kind: type[RobustCLIPModel], config: Any, source: RobustCLIPModel) -> Any:
    """A model of `kind` that shares the parameters and buffers of `source`; no weight is copied.

    Args:
        kind: Of the model.
        config: Its configuration, of towers with the sizes of `source`.
        source: Left as it is.

    Returns:
        The model, in the mode of `source`. Parameters that `source` lacks are on the meta device.
    """
    with torch.device("meta"):
        model = kind._from_config(config, attn_implementation=source.config._attn_implementation, dtype=source.dtype)
    modules = dict(source.named_modules())
    for name, module in model.named_modules():
        for kept in ("_parameters", "_buffers") if name in modules else ():
            ours, theirs = getattr(module, kept), getattr(modules[name], kept)
            ours.update({leaf: theirs[leaf] for leaf in ours if leaf in theirs})
    config.name_or_path = model.name_or_path = source.name_or_path
    return model.train(source.training)
