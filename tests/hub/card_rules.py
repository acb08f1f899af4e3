"""What the Hub refuses in the metadata of a model card, as far as its documentation says, for the test double."""

import re
from typing import Any

import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results

_TEXTS = ("license", "library_name", "pipeline_tag", "base_model_relation")
_RELATIONS = ("adapter", "finetune", "merge", "quantized")


def metadata_errors(card: str) -> list[str]:
    """What is wrong with the metadata of a card; empty if nothing is."""
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    if not found:
        return ["no metadata between two lines of ---"]
    try:
        metadata = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    return list(_errors(metadata))


def _errors(metadata: dict[str, Any]) -> Any:
    for key in _TEXTS:
        if key in metadata and not isinstance(metadata[key], str):
            yield f"{key} must be a string"
    if not re.fullmatch(r"[a-z0-9.+-]+", metadata.get("license", "other")):
        yield f"license must be one of the Hub's identifiers, got {metadata['license']!r}"
    if metadata.get("base_model_relation", "finetune") not in _RELATIONS:
        yield f"base_model_relation must be one of {_RELATIONS}"
    for key in ("base_model", "datasets"):
        given = metadata.get(key, [])
        for name in [given] if isinstance(given, str) else given:
            if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
                yield f"{key} must be ids of the Hub, got {name!r}"
    for key in ("tags", "datasets"):
        if not all(isinstance(item, str) for item in metadata.get(key, [])):
            yield f"{key} must be a list of strings"
    if "model-index" in metadata:
        yield from _index_errors(metadata["model-index"])


def _index_errors(index: Any) -> Any:
    try:
        _, results = model_index_to_eval_results(index)
    except (KeyError, TypeError, ValueError) as error:
        yield f"model-index cannot be parsed: {error!r}"
        return
    for result in results:
        for name in ("task_type", "dataset_type", "dataset_name", "metric_type"):
            if not isinstance(getattr(result, name), str) or not getattr(result, name):
                yield f"model-index needs a {name} as a string"
        if not isinstance(result.metric_value, int | float | str):
            yield f"the value of {result.metric_type} must be a number or a string"
