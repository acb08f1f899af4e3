"""Weights between an original model and the robust one that was trained from it."""

import copy

import torch

from .modeling import RobustCLIPModel

# What `alpha` is called on record.
SHARE = "share of the robust weights"


def interpolate(original: RobustCLIPModel, robust: RobustCLIPModel, alpha: float) -> RobustCLIPModel:
    """A model whose every weight is `(1 - alpha) * original + alpha * robust`.

    What training left alone is the same in both and stays so; of a model trained by TeCoA this mixes the image tower.
    The way from clean to robust accuracy that TeCoA's code calls `mix_alpha` (Mao et al.,
    https://huggingface.co/papers/2212.07016, section 4.3), after WiSE-FT (https://huggingface.co/papers/2109.01903).

    Args:
        original: Where training began.
        robust: What it led to.
        alpha: Share of `robust`, from 0 to 1.

    Returns:
        A new model, with the configuration of `robust` and `alpha` on record in `config.robustness`.

    Raises:
        ValueError: If `alpha` is outside [0, 1], or the models differ in their parameters or pixel normalisation.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 (the original) to 1 (the robust model), got {alpha}.")
    ours, theirs = original.state_dict(), robust.state_dict()
    different = sorted(ours.keys() ^ theirs.keys()) or [n for n in ours if ours[n].shape != theirs[n].shape]
    if different:
        raise ValueError(
            f"The models are not of one architecture: they differ in {different[0]!r}. Whole models and "
            "low-rank adapters can be merged, prompts cannot."
        )
    for name in ("image_mean", "image_std"):
        if getattr(original.config, name) != getattr(robust.config, name):
            raise ValueError(f"The models normalise pixels differently: {name} of their configurations differs.")
    merged = copy.deepcopy(robust)
    with torch.no_grad():
        for name, weight in merged.state_dict().items():
            # Whole numbers, such as positions, are no weights. The ends are exact.
            if weight.is_floating_point() and alpha < 1:
                weight.copy_(torch.lerp(ours[name], theirs[name], alpha))
    merged.config.robustness = {**(robust.config.robustness or {}), SHARE: alpha}
    return merged
