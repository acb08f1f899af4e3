"""Recipes: YAML sections, each validated by the constructor that it feeds, with overrides from the command line."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")

SECTIONS = ("model", "objective", "attack", "threat_model", "adaptation", "data", "training", "evaluation")
# `--model X` and `objective: tecoa` are short for the section's `name`.
_NAMED = ("model", "objective", "attack", "adaptation", "data")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Reads a recipe and applies overrides such as `["--training.learning_rate", "3e-5"]`.

    Raises:
        ValueError: If the file is not there or not YAML, a section is unknown, or an override has no value.
    """
    try:
        content = yaml.safe_load(Path(path).read_text()) or {}
    except OSError as error:
        raise ValueError(f"Cannot read the recipe {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"The recipe {path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"The recipe {path} must be a mapping of sections, got {type(content).__name__}.")
    for keys, value in _parse(overrides):
        _put(content, keys, value)
    unknown = [section for section in content if section not in SECTIONS]
    if unknown:
        raise ValueError(f"Unknown section {unknown[0]!r} in the recipe; allowed: {', '.join(SECTIONS)}.")
    return {section: _as_mapping(section, value) for section, value in content.items()}


def construct(section: str, build: Callable[..., T], settings: Mapping[str, Any]) -> T:
    """`build(**settings)`, with an unknown key answered by the list of known ones.

    Raises:
        ValueError: If a key is not a parameter of `build`, or `build` refuses a value.
    """
    fields = dataclasses.fields(build) if dataclasses.is_dataclass(build) else None
    names = [f.name for f in fields if f.init] if fields else list(inspect.signature(build).parameters)
    unknown = [key for key in settings if key not in names]
    if unknown:
        raise ValueError(f"Unknown key {unknown[0]!r} in section {section}; allowed: {', '.join(sorted(names))}.")
    try:
        return build(**settings)
    except TypeError as error:
        raise ValueError(f"Section {section}: {error}") from error


def choose(section: str, registry: Mapping[str, Callable[..., T]], settings: Mapping[str, Any]) -> T:
    """Constructs what `settings["name"]` names in `registry` from the rest of `settings`.

    Raises:
        ValueError: If there is no name or the registry does not know it, and as `construct`.
    """
    name = settings.get("name")
    if name not in registry:
        raise ValueError(f"Unknown {section} {name!r}; known: {', '.join(sorted(registry))}.")
    rest = {key: value for key, value in settings.items() if key != "name"}
    return construct(section, registry[name], rest)


def _parse(overrides: Sequence[str]) -> list[tuple[list[str], Any]]:
    if len(overrides) % 2:
        raise ValueError(f"Each override is --section.key VALUE; {overrides[-1]!r} has no partner.")
    parsed = []
    for flag, value in zip(overrides[::2], overrides[1::2], strict=True):
        keys = flag.removeprefix("--").split(".")
        if not flag.startswith("--") or keys[0] not in SECTIONS:
            raise ValueError(f"Unknown option {flag!r}; overrides are --SECTION.KEY VALUE with {', '.join(SECTIONS)}.")
        parsed.append((keys, _number(yaml.safe_load(value))))
    return parsed


def _put(content: dict[str, Any], keys: list[str], value: Any) -> None:
    if len(keys) == 1 and keys[0] in _NAMED:
        keys = [keys[0], "name"]
    for key in keys[:-1]:
        inner = content.get(key)
        content[key] = inner if isinstance(inner, dict) else ({"name": inner} if isinstance(inner, str) else {})
        content = content[key]
    content[keys[-1]] = value


def _as_mapping(section: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str) and section in _NAMED:
        return {"name": value}
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"Section {section} must be a mapping of keys to values, got {value!r}.")
    return {key: _number(inner) for key, inner in value.items()}


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-5` as text; every other tool reads it as a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
