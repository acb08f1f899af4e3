"""Reading a checkpoint of any known format into the names and the config of a Hugging Face CLIP."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import CLIPConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils.hub import extract_commit_hash

from .activation import Comparison, choose_activation, compare_towers
from .architecture import (
    VISION_PREFIXES,
    check_fit,
    check_sizes,
    check_weights,
    only_vision,
    text_fields,
    vision_fields,
)
from .checkpoint_files import CheckpointFiles, find_files, look_for, read_weights
from .formats import Detected, complain_of_names, detect_format
from .open_clip_config import read_open_clip
from .open_clip_names import count_layers, name_table, to_hugging_face
from .processor import Place, image_statistics
from .registry import HubCheckpoint, find_checkpoint, is_published


@dataclasses.dataclass(frozen=True)
class ConvertedCheckpoint:
    """A checkpoint in memory, as Hugging Face would have it.

    Args:
        source: Where it came from.
        config: Of a `CLIPConfig`, with `image_mean`, `image_std` and `conversion`: what was found, and who said what.
        weights: Exactly the parameters of the `CLIPModel`, in fp32.
        prompters: Visual prompts that the file has besides and a `CLIPModel` has no place for; as of `Detected`.
        places: Where a tokenizer may be, best first.
        commit: Of the Hub repository, if it came from there.
    """

    source: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    prompters: dict[str, Tensor]
    places: tuple[Place, ...]
    commit: str | None


@dataclasses.dataclass(frozen=True)
class _Said:
    """What stands beside the weights.

    Args:
        config: A whole config, where there is one; else empty.
        vision_heads: Attention heads; `None` where nothing says.
        text_heads: Likewise.
        eps: Of the normalisations of both towers.
        sizes: What must agree with the weights.
        activation: Who gives the activation, and which it is; empty where nothing does.
        by_default: Whether it is given only by leaving a field out.
        statistics: `image_mean` and `image_std`, where known.
    """

    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    vision_heads: int | None = None
    text_heads: int | None = None
    eps: tuple[float, float] = (1e-5, 1e-5)
    sizes: dict[str, Any] = dataclasses.field(default_factory=dict)
    activation: dict[str, str] = dataclasses.field(default_factory=dict)
    by_default: bool = False
    statistics: dict[str, list[float]] = dataclasses.field(default_factory=dict)


def read_checkpoint(
    source: str, *, base: str | None, hidden_act: str | None, unchecked: bool, download: Mapping[str, Any]
) -> ConvertedCheckpoint:
    """Reads a checkpoint of any known format; arguments and errors are those of `convert.load_published`."""
    row = find_checkpoint(source)
    _refuse_by_name(source, row)
    files = find_files(source, **download)
    if files.layout == "open_clip_config.json" and look_for(files.place, "vocab.txt", download) is not None:
        raise ValueError(f"{source} has a WordPiece vocabulary (vocab.txt), as BERT has, and CLIP's is another kind.")
    said = _said(files, download)
    detected = detect_format(read_weights(files))
    weights = {name: tensor.float() for name, tensor in _renamed(detected, source).items()}
    alone = only_vision(list(weights))
    lender = _read_base(source, base, row, alone) if base or alone else None
    config = _config(weights, said, lender if alone else None, source)
    compared = None
    if lender is not None:
        compared = _compare(weights, config, lender, source, needs_text=alone and not unchecked)
    act, who = _activation(source, said, row, hidden_act, compared, unchecked)
    config["vision_config"]["hidden_act"] = act
    if alone and lender is not None:
        weights |= {name: w for name, w in lender.weights.items() if not name.startswith(VISION_PREFIXES)}
    elif not said.config or act != said.activation.get("config.json"):
        config["text_config"]["hidden_act"] = act
    check_sizes(said.sizes, config, source)
    check_weights(weights, config, source)
    places: list[Place] = [(files.place, download)]
    places += [*lender.places] if lender is not None else [(row.base, {})] if row is not None and row.base else []
    record = {
        # Where it stood on somebody's disk is nobody's business.
        "source": source if not Path(source).exists() else Path(source).resolve().name,
        "format": detected.format,
        "sha256": files.digests(),
        "activation": f"{act}, by {who}",
    }
    if lender is not None:
        record |= {"base": lender.config["conversion"]["source"], "comparison": str(compared)}
    config |= {"conversion": record, "architectures": ["CLIPModel"], "dtype": "float32"}
    if row is not None and row.threat_model and not config.get("robustness") and is_published(source):
        config["robustness"] = _robustness(row)
    commit = extract_commit_hash(str(files.weights[0]), None)
    return ConvertedCheckpoint(source, config, weights, detected.prompters, tuple(places), commit)


def _refuse_by_name(source: str, row: HubCheckpoint | None) -> None:
    """Spares a download of what is known not to load, and says where a file that is not here can be had."""
    if row is None or Path(source).exists():
        return
    if row.refused:
        raise ValueError(f"{source} ({row.method}, {row.architecture}) is known and cannot be loaded: {row.refused}.")
    if "/" not in source.removeprefix("hf-hub:"):
        raise ValueError(f"{source} is no file here. It is known ({row.method}, {row.architecture}): {row.place}.")


def _said(files: CheckpointFiles, download: Mapping[str, Any]) -> _Said:
    place = (files.place, download)
    if files.layout == "open_clip_config.json":
        told = read_open_clip(files.config, files.source)
        left_out = told["quick_gelu"] is None
        who = "open_clip_config.json" + (", where quick_gelu is left out" if left_out else "")
        return _Said(
            vision_heads=told["vision_heads"],
            text_heads=told["text_heads"],
            eps=told["layer_norm_eps"],
            sizes=told["sizes"],
            activation={who: "quick_gelu" if told["quick_gelu"] else "gelu"},
            by_default=left_out,
            statistics={key: told[key] for key in ("image_mean", "image_std")},
        )
    if not files.layout:
        return _Said()
    kind = files.config.get("model_type")
    if kind == "clip":
        config = CLIPConfig.from_dict(files.config).to_dict()
        acts = {"config.json": config["vision_config"]["hidden_act"]}
        return _Said(config=config, activation=acts, statistics=image_statistics(place))
    if kind == "clip_vision_model" and "num_attention_heads" in files.config:
        heads, eps = files.config["num_attention_heads"], files.config.get("layer_norm_eps", 1e-5)
        acts = {"config.json": files.config["hidden_act"]} if "hidden_act" in files.config else {}
        return _Said(vision_heads=heads, eps=(eps, eps), activation=acts, statistics=image_statistics(place))
    raise ValueError(f"{files.source} is no CLIP: its config.json says model_type {kind!r}, and 'clip' is needed.")


def _renamed(detected: Detected, source: str) -> dict[str, Tensor]:
    """The weights under the names of Hugging Face, none missing and none unknown."""
    weights = detected.weights
    if detected.format == "huggingface":
        layers = [count_layers(weights, f"{tower}_model.encoder.layers") for tower in ("vision", "text")]
        alone = only_vision(list(weights))
        table = name_table(layers[0], None if alone else layers[1])
        complain_of_names(weights, [name for ours in table.values() for name in ours], source)
        return dict(weights)
    if detected.format == "open_clip":
        text_layers = count_layers(weights, "transformer.resblocks")
        table = name_table(count_layers(weights, "visual.transformer.resblocks"), text_layers)
    else:
        table = name_table(count_layers(weights, "transformer.resblocks"), None)
    complain_of_names(weights, table, source)
    return to_hugging_face(weights, table)


def _read_base(source: str, base: str | None, row: HubCheckpoint | None, needed: bool) -> ConvertedCheckpoint:
    name = base or (row.base if row is not None else None)
    if name is None:
        raise ValueError(
            f"{source} holds an image tower and no text tower. Give the clean CLIP that it was trained from as base "
            "(--base), a folder or Hub id: its text tower belongs to it."
        )
    try:
        lender = read_checkpoint(name, base=None, hidden_act=None, unchecked=False, download={})
    except (OSError, ValueError) as error:
        told = "needs the text tower of" if needed else "is to be compared with"
        raise ValueError(f"{source} {told} {name}, which cannot be read; give another as --base. {error}") from error
    return lender


def _config(
    weights: Mapping[str, Tensor], said: _Said, lender: ConvertedCheckpoint | None, source: str
) -> dict[str, Any]:
    """A config without activations of its own, unless a whole one was there."""
    statistics = {"image_mean": list(OPENAI_CLIP_MEAN), "image_std": list(OPENAI_CLIP_STD)}
    if said.config:
        # What a RobustCLIPConfig wrote comes before the image processor.
        return {**statistics, **said.statistics, **{k: v for k, v in said.config.items() if v is not None}}
    heads = said.vision_heads
    if lender is not None:
        heads = heads or lender.config["vision_config"]["num_attention_heads"]
        text = dict(lender.config["text_config"])
        statistics |= {key: lender.config[key] for key in statistics}
    else:
        text = text_fields(weights, said.text_heads, source) | {"layer_norm_eps": said.eps[1]}
    vision = vision_fields(weights, heads, source) | {"layer_norm_eps": said.eps[0]}
    config = {"vision_config": vision, "text_config": text, "projection_dim": vision["projection_dim"]}
    return config | {"model_type": "clip"} | statistics | said.statistics


def _compare(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    lender: ConvertedCheckpoint,
    source: str,
    *,
    needs_text: bool,
) -> Comparison:
    own, base = config["vision_config"], lender.config["vision_config"]
    check_fit(own, base, source, lender.source)
    compared = compare_towers(weights, own, lender.weights, base)
    if needs_text and not compared.related:
        raise ValueError(
            f"The image tower of {source} was not trained from {lender.source}: their weights are "
            f"{compared.moved:.2g} of the base's norm apart, as after separate trainings, so the base's text tower is "
            "not its own. Give the CLIP that it was trained from, or unchecked (--unchecked) if you know better."
        )
    return compared


def _activation(
    source: str,
    said: _Said,
    row: HubCheckpoint | None,
    hidden_act: str | None,
    compared: Comparison | None,
    unchecked: bool,
) -> tuple[str, str]:
    """The activation, and who gives it."""
    claims = {"hidden_act": hidden_act} if hidden_act else {}
    if row is not None and row.hidden_act:
        claims["the registry"] = row.hidden_act
    if not (said.by_default and claims):
        claims |= said.activation
    return choose_activation(claims, compared, source, trusted=unchecked and hidden_act is not None)


def _robustness(row: HubCheckpoint) -> dict[str, Any]:
    known = {"objective": row.method, "attack": "the authors'", "threat model": row.threat_model}
    return known | ({"paper": f"https://huggingface.co/papers/{row.paper}"} if row.paper else {})
