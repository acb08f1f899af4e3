"""Recipes: YAML sections, each validated by the constructor that it feeds, with overrides from the command line."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from robust_clip.attacks import ATTACKS, Attack
from robust_clip.suggestions import instead

T = TypeVar("T")

SECTIONS = ("model", "objective", "attack", "threat_model", "adaptation", "data", "training", "evaluation")
# `--model X` and `objective: tecoa` are short for the section's main key.
_MAIN_KEY = {"model": "name", "objective": "name", "attack": "name", "adaptation": "name", "data": "train"}


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads an unquoted `1e-5` as text; every other tool reads it as a number, and so does this."""


_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Reads a recipe and applies overrides such as `["--training.learning_rate", "3e-5"]`.

    Raises:
        ValueError: If the file is not there or not YAML, a section is unknown or not a mapping, or an override has no
            value.
    """
    content = read_yaml(path)
    unknown = [section for section in content if section not in SECTIONS]
    if unknown:
        raise ValueError(f"Unknown section {unknown[0]!r} in the recipe{instead(unknown[0], SECTIONS)}")
    recipe = {section: as_section(section, value) for section, value in content.items()}
    for keys, value in _parse(overrides):
        _put(recipe, keys, value)
    return recipe


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ValueError: If the file is not there, not YAML, or holds something else.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader) or {}
    except OSError as error:
        raise ValueError(f"Cannot read the recipe {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"The recipe {path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"The recipe {path} must be a mapping of sections, got {type(content).__name__}.")
    return content


def read_section(section: str, text: str) -> dict[str, Any]:
    """A section as the command line gives it, a name or a mapping.

    >>> read_section("objective", "tecoa"), read_section("objective", "{name: trades, beta: 3}")
    ({'name': 'tecoa'}, {'name': 'trades', 'beta': 3})

    Raises:
        ValueError: If it is not YAML, or neither.
    """
    return as_section(section, _read_value(f"--{section}", text))


def construct(
    section: str, build: Callable[..., T], settings: Mapping[str, Any], renamed: Mapping[str, str] | None = None
) -> T:
    """`build(**settings)`, with an unknown key answered by those near it and the list of known ones.

    Args:
        section: For error messages.
        build: A dataclass or function.
        settings: Its arguments.
        renamed: Key in the recipe to parameter of `build`, where they differ.

    Raises:
        ValueError: If a key is not a parameter of `build`, or `build` refuses a value.
    """
    fields = dataclasses.fields(build) if dataclasses.is_dataclass(build) else None
    names = [f.name for f in fields if f.init] if fields else list(inspect.signature(build).parameters)
    parameter = {name: name for name in names if name not in (renamed or {}).values()} | dict(renamed or {})
    unknown = [key for key in settings if key not in parameter]
    if unknown:
        raise ValueError(f"Unknown key {unknown[0]!r} in section {section}{instead(unknown[0], sorted(parameter))}")
    try:
        return build(**{parameter[key]: value for key, value in settings.items()})
    except TypeError as error:
        raise ValueError(f"Section {section}: {error}") from error


def choose(section: str, registry: Mapping[str, Callable[..., T]], settings: Mapping[str, Any]) -> T:
    """Constructs what `settings["name"]` names in `registry` from the rest of `settings`.

    Raises:
        ValueError: If there is no name or the registry does not know it, and as `construct`.
    """
    name = settings.get("name")
    if not isinstance(name, str) or name not in registry:
        raise ValueError(f"Unknown {section} {name!r}{instead(name, sorted(registry), 'known')}")
    rest = {key: value for key, value in settings.items() if key != "name"}
    return construct(section, registry[name], rest)


def choose_attack(name: str, steps: int | None, *, pgd_steps: int) -> Attack:
    """The attack of that name, with `steps` in place of its own, or of `pgd_steps` for PGD, unless that is `None`.

    >>> choose_attack("pgd", 3, pgd_steps=20).steps, choose_attack("pgd", None, pgd_steps=20).steps
    (3, 20)
    >>> choose_attack("fgsm", None, pgd_steps=20)
    FGSM(random_start=False)

    Raises:
        ValueError: As `choose`, also for an attack that takes no steps.
    """
    if steps is None and name == "pgd":
        steps = pgd_steps
    return choose("attack", ATTACKS, {"name": name} | ({} if steps is None else {"steps": steps}))


def commas(text: str) -> list[str]:
    """What stands between commas.

    >>> commas("tecoa, trades,")
    ['tecoa', 'trades']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def _parse(overrides: Sequence[str]) -> list[tuple[list[str], Any]]:
    if len(overrides) % 2:
        raise ValueError(f"Each override is --section.key VALUE; {overrides[-1]!r} has no partner.")
    parsed = []
    for flag, value in zip(overrides[::2], overrides[1::2], strict=True):
        keys = flag.removeprefix("--").split(".")
        if not flag.startswith("--") or keys[0] not in SECTIONS:
            raise ValueError(f"Unknown option {flag!r}; overrides are --SECTION.KEY VALUE with {', '.join(SECTIONS)}.")
        parsed.append((keys, _read_value(flag, value)))
    return parsed


def _read_value(flag: str, value: str) -> Any:
    try:
        return yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"The value {value!r} of {flag} is not YAML; quote it: '\"{value}\"'.") from error


def _put(content: dict[str, Any], keys: list[str], value: Any) -> None:
    section, *inside = keys
    if not inside:
        content[section] = {} if value is None else content.get(section, {}) | as_section(section, value)
        return
    for key in keys[:-1]:
        if not isinstance(content.get(key), dict):
            content[key] = {}
        content = content[key]
    content[keys[-1]] = value


def as_section(section: str, value: Any) -> dict[str, Any]:
    """A section as a mapping, where a text stands for its main key.

    >>> as_section("objective", "tecoa")
    {'name': 'tecoa'}

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(value, str) and section in _MAIN_KEY:
        return {_MAIN_KEY[section]: value}
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"Section {section} must be a mapping of keys to values, got {value!r}.")
    return dict(value)
