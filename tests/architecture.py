"""The rules of the layout: who may import whom, where a paper lives, how large a file may grow, what a registry is.

Each rule is a function from a path and its source to complaints. Sources are read as syntax trees and never imported,
so an import inside a function or under `TYPE_CHECKING` counts as any other.
"""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions

PACKAGE = "robust_clip"

# What a room may import of ours besides itself. "attacks.losses" stands for that one module of attacks.
MAY_IMPORT = {
    "paper": set(),
    "suggestions": set(),
    "threat_model": set(),
    "attacks": {"threat_model", "paper"},
    "models": {"threat_model", "paper", "suggestions", "hub.convert"},
    "adaptation": {"models", "paper"},
    "data": {"suggestions"},
    "objectives": {"attacks.base", "attacks.embedding", "attacks.losses", "models", "paper"},
    "evaluation": {"attacks", "data", "models", "threat_model"},
    "hub": {"evaluation.records", "models", "paper", "threat_model"},
    # The trainer hands models and threat models on to what it drives, so it may also name them.
    "training": {"objectives", "attacks", "adaptation", "data", "evaluation", "hub", "models", "threat_model"},
}
MAY_IMPORT["__init__"] = set(MAY_IMPORT)
MAY_IMPORT["cli"] = set(MAY_IMPORT) - {"__init__"}
MAY_IMPORT["__main__"] = {"cli"}

NOT_A_PAPER = {"__init__", "adaptive", "base", "functional", "margins", "accelerate", "compare", "README"}
OWNERS = packages_distributions()  # of each importable name
FILE_LINES, FUNCTION_LINES, CONSTRUCTOR_OPTIONS, FOLDERS = 300, 50, 8, 2
SHAPELESS_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
DICT_WRITERS = {"update", "setdefault", "pop", "popitem", "clear"}


def imported_modules(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything that a file imports, wherever in the file the import stands."""
    package = path.split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = [*parents, node.module] if node.module else parents
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and re.search(r"\b(import_module|__import__)$", ast.unparse(node.func)):
            name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else "."
            yield node.lineno, f"{PACKAGE}.<computed>" if name.startswith(".") else name


def import_complaints(path: str, source: str) -> list[str]:
    """Imports of ours that the table does not grant to the room of this file."""
    room = path.split("/")[1].removesuffix(".py")
    if room not in MAY_IMPORT:
        return [f"{path}: `{room}` is not a room; the rooms are {sorted(MAY_IMPORT)}"]
    complaints = []
    for line, name in imported_modules(path, source):
        first, _, inside = name.partition(".")
        granted = any(f"{inside}.".startswith(f"{target}.") for target in MAY_IMPORT[room] | {room})
        if first == PACKAGE and not granted:
            complaints.append(f"{path}:{line}: imports {name}; {room} may import {sorted(MAY_IMPORT[room])}")
    return complaints


def dependency_complaints(path: str, source: str, declared: set[str]) -> list[str]:
    """Imports of other people's packages that `pyproject.toml` does not declare."""
    complaints = []
    for line, name in imported_modules(path, source):
        first = name.partition(".")[0]
        owners = {owner.lower().replace("_", "-") for owner in OWNERS.get(first, [first])}
        if first != PACKAGE and first not in sys.stdlib_module_names and not owners & declared:
            complaints.append(f"{path}:{line}: imports {first}, which pyproject.toml does not declare")
    return complaints


def size_complaints(path: str, source: str) -> list[str]:
    """What is too long, too deep, has too many options or is named for nothing in particular.

    A function's docstring does not count towards its length.
    """
    *folders, name = path.removesuffix(".py").split("/")
    complaints = [f"{path}: nothing is named `{word}`" for word in sorted({*folders, name} & SHAPELESS_NAMES)]
    if len(folders) > FOLDERS:
        complaints.append(f"{path}: {len(folders)} folders deep, {FOLDERS} are allowed")
    if (lines := len(source.splitlines())) > FILE_LINES:
        complaints.append(f"{path}: {lines} lines, {FILE_LINES} are allowed")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = node.body[0] if ast.get_docstring(node) else None
        lines = node.end_lineno - node.lineno + 1 - (docstring.end_lineno - docstring.lineno + 1 if docstring else 0)
        if lines > FUNCTION_LINES:
            complaints.append(f"{path}:{node.lineno}: {node.name} has {lines} lines, {FUNCTION_LINES} are allowed")
        options = len(node.args.kwonlyargs) + len(node.args.defaults)
        if node.name == "__init__" and options > CONSTRUCTOR_OPTIONS:
            complaints.append(f"{path}:{node.lineno}: {options} options, {CONSTRUCTOR_OPTIONS} are allowed")
    return complaints


def assignments(source: str) -> Iterator[tuple[str, ast.expr | None]]:
    """Name and value of each assignment at the top of a module, annotated or not."""
    for node in ast.parse(source).body:
        for target in node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]:
            if isinstance(target, ast.Name):
                yield target.id, getattr(node, "value", None)


def literal_keys(source: str, name: str) -> list[str] | None:
    """Keys of a literal dict, or None where the module has no such dict or computes it."""
    value = dict(assignments(source)).get(name)
    return [ast.literal_eval(key) for key in value.keys] if isinstance(value, ast.Dict) and all(value.keys) else None


def registry_complaints(path: str, source: str) -> list[str]:
    """Dicts in capitals that code builds or changes, and registration by decorator."""
    complaints = []
    for name, value in assignments(source):
        called = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
        unpacked = isinstance(value, ast.Dict) and not all(value.keys)
        if name.isupper() and (isinstance(value, ast.DictComp) or unpacked or called in {"dict", "defaultdict"}):
            complaints.append(f"{path}: {name} is not a literal dict")
    for node in ast.walk(ast.parse(source)):
        stored = isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load)
        written = isinstance(node, ast.Attribute) and node.attr in DICT_WRITERS
        if (stored or written) and ast.unparse(node.value).split(".")[-1].isupper():
            complaints.append(f"{path}:{node.lineno}: `{ast.unparse(node)}` changes a registry")
        for decorator in getattr(node, "decorator_list", []):
            if "register" in ast.unparse(decorator):
                complaints.append(f"{path}:{node.lineno}: `{ast.unparse(decorator)}` registers by decorator")
    return complaints


def stem_complaints(places: dict[str, set[str]]) -> list[str]:
    """Stems that are in some of a paper's places and not in all of them."""
    stems = set().union(*places.values()) - NOT_A_PAPER
    return [f"`{stem}` is not in {place}" for stem in sorted(stems) for place in places if stem not in places[place]]


def public_name_complaints(source: str) -> list[str]:
    """What stands in the package's `__init__` besides a docstring, imports and a sorted `__all__` of them.

    Sorted as isort does: `CAPITALS`, then `Classes`, then `functions`.
    """
    *body, last = ast.parse(source).body[1:] or [ast.Pass()]
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    names = [alias.asname or alias.name for node in imports for alias in node.names]
    names.sort(key=lambda name: (not name.isupper(), name.islower(), name))
    complaints = [f"`{ast.unparse(node)}` is not an import of a name" for node in body if node not in imports]
    if ast.unparse(last) != f"__all__ = {names}":
        complaints.append(f"the file does not end with `__all__ = {names}`")
    return complaints
