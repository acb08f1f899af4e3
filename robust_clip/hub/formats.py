"""Telling formats of published checkpoints apart by what is in them, and refusing what no CLIPModel can be."""

import dataclasses
import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

# Found in the names of what cannot be expressed as a CLIPModel.
_NOT_A_CLIP_MODEL = {
    r"visual\.trunk\.|^(stages|stem|trunk|head)\.": "its image tower is timm's (ConvNeXt and others), not CLIP's ViT",
    r"(^|\.)layer1\.\d+\.|attnpool\.": "its image tower is a ResNet, not a ViT",
    r"embeddings\.word_embeddings|^text\.transformer\.(embeddings|encoder|layer)\.|^bert\.": (
        "its text tower is a BERT of Hugging Face with WordPiece tokens, not CLIP's"
    ),
    r"^text_decoder\.|\.attn_pool\.": "it is a CoCa or pools by attention, and CLIP reads its class token",
    r"^logit_bias$": "it has a logit bias, as SigLIP has; CLIP has none",
    r"\.ls_[12]\.gamma$": "its blocks scale their outputs (layer scale), and CLIP's do not",
    r"(^|\.)(prompt_learner\.)?(ctx|token_prefix|token_suffix)$": (
        "it holds text prompts of a prompt learner (CoOp, APT) and no tower; load them beside their backbone"
    ),
    r"^base_model\.model\.|\.lora_[AB]\.": (
        "it is an adapter of peft: load its base, then PeftModel.from_pretrained(base, FOLDER)"
    ),
}
_PREFIXES = ("module.", "_orig_mod.")
# Buffers that older versions saved, and the three numbers that OpenAI's archives carry.
_IGNORED = re.compile(r"(^|\.)(attn_mask|position_ids)$|^(input_resolution|context_length|vocab_size)$")
_WRAPPERS = ("state_dict", "model_state_dict", "model")


@dataclasses.dataclass(frozen=True)
class Detected:
    """A checkpoint as it was found.

    Args:
        format: `huggingface`, `open_clip` (a whole model; OpenAI's names are the same), `visual` (its image tower
            alone), or `tecoa` (such a tower in a dict of TeCoA's script).
        weights: Names as in the file, less wrappers' prefixes and `visual.` of a tower alone.
        prompters: What a `tecoa` file has besides; as of `read_prompters`.
    """

    format: str
    weights: dict[str, Tensor]
    prompters: dict[str, Tensor]


def detect_format(content: Mapping[Any, Any]) -> Detected:
    """Finds out what a checkpoint is, by its names.

    Args:
        content: What `read_weights` gave.

    Raises:
        ValueError: If it is nothing known, or something known that is no CLIPModel, and why.
    """
    if "vision_encoder_state_dict" in content:
        tower = _plain(content["vision_encoder_state_dict"])
        _refuse_other_models(tower)
        positions = tower.pop("prompt_pos_embedding", None)
        return Detected("tecoa", tower, read_prompters(content, positions))
    inside = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
    weights = _plain(inside)
    _refuse_other_models(weights)
    if any(name.startswith("vision_model.") for name in weights):
        return Detected("huggingface", weights, {})
    # `text.` is open_clip's CustomTextCLIP: the same tower, one level down.
    weights = {name.removeprefix("text."): tensor for name, tensor in weights.items()}
    has_visual = any(name.startswith("visual.") for name in weights)
    if has_visual and any(name.startswith(("transformer.", "token_embedding.")) for name in weights):
        return Detected("open_clip", weights, {})
    # A tower that was saved from the whole model.
    tower = {name.removeprefix("visual."): tensor for name, tensor in weights.items()}
    if any(name.startswith("transformer.resblocks.") for name in tower):
        return Detected("visual", tower, {})
    shown = ", ".join(map(repr, list(weights)[:5])) or "no tensors at all"
    raise ValueError(
        f"Not a format that is known: the first names are {shown}. Known are a CLIPModel of Hugging Face "
        "(vision_model...), open_clip's and OpenAI's whole models (visual... and transformer...), their image tower "
        "alone (conv1.weight, transformer.resblocks...), and TeCoA's dict with vision_encoder_state_dict."
    )


def read_prompters(content: Mapping[Any, Any], positions: Tensor | None = None) -> dict[str, Tensor]:
    """The visual prompts that TeCoA's script saves beside the tower.

    Tokens have their position embedding added, which is the same: both are summed before the first normalisation. A
    `patch` is taken for the fixed one in the upper left corner; that of the script's random patch has the same name
    and cannot be told from it.

    Args:
        content: With `state_dict` (of the pixel prompter) and `add_prompter` (of the token prompter).
        positions: `prompt_pos_embedding` of the tower, `(N, width)`.

    Returns:
        What is there of a frame around an image of side S (`frame.up` and `frame.down` `(1, 3, W, S)`, `frame.left`
        and `frame.right` `(1, 3, S - 2 W, W)`), `patch` `(1, 3, P, P)` and `tokens` `(N, width)`: the names that
        `PromptedCLIPModel` has under `vision_model.embeddings`.

    Raises:
        ValueError: If a prompter is of another kind.
    """
    pixel, token = _plain(content.get("state_dict") or {}), _plain(content.get("add_prompter") or {})
    found: dict[str, Tensor] = {}
    if set(pixel) == {"pad_up", "pad_down", "pad_left", "pad_right"}:
        found |= {name.replace("pad_", "frame."): pad for name, pad in pixel.items()}
    elif set(pixel) == {"patch"}:
        found["patch"] = pixel["patch"]
    elif pixel:
        raise ValueError(f"A pixel prompter of pads or of a patch is known; this one has {', '.join(sorted(pixel))}.")
    if set(token) == {"prompt"}:
        found["tokens"] = token["prompt"][0] if positions is None else token["prompt"][0] + positions
    elif token:
        raise ValueError(f"A token prompter with `prompt` alone is known; this one has {', '.join(sorted(token))}.")
    return {name: tensor.float() for name, tensor in found.items() if tensor.numel()}


def complain_of_names(got: Collection[str], expected: Iterable[str], source: str) -> None:
    """Compares names of parameters.

    Raises:
        ValueError: If there is a name that no CLIP has, with the nearest that one has; or one is missing.
    """
    expected = list(expected)
    missing = [name for name in expected if name not in got]
    unknown = sorted(set(got) - set(expected))
    if missing and all("ln_pre." in name or "pre_layrnorm." in name for name in missing) and not unknown:
        raise ValueError(
            f"{source} has no ln_pre, the normalisation before the first block (as DeltaCLIP and CLIPS have none): "
            "that model cannot be expressed as a CLIPModel."
        )
    if unknown:
        near = difflib.get_close_matches(unknown[0], missing or expected, n=1, cutoff=0)
        lacking = ", which is missing" if near and near[0] in missing else ""
        raise ValueError(
            f"{source} has {len(unknown)} names that no CLIP of this kind has, first {unknown[0]!r}; nearest is "
            f"{near[0]!r}{lacking}. Rename it, if that is what it is."
        )
    if missing:
        raise ValueError(f"{source} lacks {len(missing)} of {len(expected)} parameters, first {missing[0]!r}.")


def _plain(content: Any) -> dict[str, Tensor]:
    """Names and tensors of a state dict, without what wrappers put before each name."""
    if not isinstance(content, Mapping):
        raise ValueError(f"A state dict is needed, got {type(content).__name__}.")
    plain = {}
    for name, tensor in content.items():
        name = str(name)
        while name.startswith(_PREFIXES):
            name = name.split(".", 1)[1]
        if isinstance(tensor, Tensor) and not _IGNORED.search(name):
            plain[name] = tensor
    return plain


def _refuse_other_models(weights: Mapping[str, Tensor]) -> None:
    for pattern, reason in _NOT_A_CLIP_MODEL.items():
        name = next((name for name in weights if re.search(pattern, name)), None)
        if name is not None:
            raise ValueError(f"This checkpoint cannot become a CLIPModel: {reason} (it has {name!r}).")
