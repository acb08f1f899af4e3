"""The repository keeps to the rules of `architecture.py`, and each of those rules can fail."""

import re
import tomllib
from pathlib import Path

import pytest

from architecture import (
    PACKAGE,
    dependency_complaints,
    import_complaints,
    literal_keys,
    public_name_complaints,
    registry_complaints,
    size_complaints,
    stem_complaints,
)

REPOSITORY = Path(__file__).parents[1]
REGISTRIES = {
    "robust_clip/attacks/__init__.py": "ATTACKS",
    "robust_clip/attacks/losses.py": "LOSSES",
    "robust_clip/attacks/multimodal.py": "MULTIMODAL_ATTACKS",
    "robust_clip/attacks/text_registry.py": "TEXT_ATTACKS",
    "robust_clip/data/datasets.py": "DATASETS",
    "robust_clip/hub/registry.py": "CHECKPOINTS",
    "robust_clip/objectives/__init__.py": "OBJECTIVES",
    "robust_clip/evaluation/presets.py": "PRESETS",
}


def sources(*folders: str) -> dict[str, str]:
    """The Python files under folders of the repository, by their path in it."""
    files = (file for folder in folders for file in sorted((REPOSITORY / folder).rglob("*.py")))
    return {file.relative_to(REPOSITORY).as_posix(): file.read_text(encoding="utf-8") for file in files}


def declared_distributions() -> set[str]:
    """Names of all distributions that `pyproject.toml` asks for, those of extras included."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = sum(project["optional-dependencies"].values(), project["dependencies"])
    return {re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-") for requirement in requirements}


@pytest.fixture(scope="module")
def package() -> dict[str, str]:
    files = sources(PACKAGE)
    assert f"{PACKAGE}/threat_model.py" in files
    return files


def test_imports_point_one_way(package):
    complaints = [line for path, source in package.items() for line in import_complaints(path, source)]
    assert not complaints, "\n".join(complaints)


def test_imports_of_other_packages_are_declared(package):
    declared = declared_distributions()
    complaints = [line for path, source in package.items() for line in dependency_complaints(path, source, declared)]
    assert not complaints, "\n".join(complaints)


def test_files_functions_and_constructors_stay_small():
    complaints = [line for path, source in sources(PACKAGE, "tests").items() for line in size_complaints(path, source)]
    assert not complaints, "\n".join(complaints)


def test_registries_are_literal_dicts(package):
    complaints = [line for path, source in package.items() for line in registry_complaints(path, source)]
    for path, name in REGISTRIES.items():
        complaints += [] if literal_keys(package[path], name) else [f"{path}: no literal dict {name}"]
    assert not complaints, "\n".join(complaints)


def test_a_paper_is_one_stem_everywhere(package):
    """A card it has only once something is measured, and then under the same name."""
    objectives, tests = f"{PACKAGE}/objectives", REPOSITORY / "tests/objectives"
    complaints = stem_complaints(
        {
            "OBJECTIVES": set(literal_keys(package[f"{objectives}/__init__.py"], "OBJECTIVES") or ()),
            objectives: {file.stem for file in (REPOSITORY / objectives).glob("*.py")},
            "recipes": {folder.name for folder in (REPOSITORY / "recipes").iterdir() if folder.is_dir()},
            "tests/objectives": {file.stem.removeprefix("test_") for file in tests.glob("test_*.py")},
        }
    )
    assert not complaints, "\n".join(complaints)
    cards = {file.stem for file in (REPOSITORY / "model_cards").glob("*.md")} - {"README"}
    assert cards <= set(literal_keys(package[f"{objectives}/__init__.py"], "OBJECTIVES") or ())


def test_the_package_exports_sorted_names_and_nothing_else(package):
    complaints = public_name_complaints(package[f"{PACKAGE}/__init__.py"])
    assert not complaints, "\n".join(complaints)


BAD_IMPORTS = {
    "upwards": ("robust_clip/attacks/pgd.py", "from robust_clip.models import RobustCLIPModel"),
    "in a function": ("robust_clip/data/rows.py", "def load():\n    import robust_clip.models.zero_shot"),
    "for types only": ("robust_clip/paper.py", "if TYPE_CHECKING:\n    from robust_clip import attacks"),
    "relative": ("robust_clip/models/modeling.py", "from ..training.trainer import AdversarialTrainer"),
    "relative, of a room": ("robust_clip/hub/card.py", "from .. import attacks"),
    "from the top": ("robust_clip/evaluation/evaluator.py", "from robust_clip import ThreatModel"),
    "of the whole package": ("robust_clip/data/rows.py", "import robust_clip"),
    "of another module of a room": ("robust_clip/objectives/tecoa.py", "from robust_clip.attacks.pgd import PGD"),
    "of a namesake": ("robust_clip/objectives/tecoa.py", "from robust_clip.attacks.losses_of_ours import Loss"),
    "by string": ("robust_clip/data/rows.py", "importlib.import_module('robust_clip.cli')"),
    "by computed string": ("robust_clip/data/rows.py", "import_module(name)"),
    "of the command line": ("robust_clip/training/trainer.py", "from robust_clip.cli.train import main"),
    "from an unknown room": ("robust_clip/extras/thing.py", "import torch"),
}


@pytest.mark.parametrize(("path", "source"), BAD_IMPORTS.values(), ids=BAD_IMPORTS)
def test_refuses_import(path, source):
    assert len(import_complaints(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("robust_clip/attacks/pgd.py", "from .base import Attack\nfrom ..threat_model import ThreatModel"),
        ("robust_clip/attacks/__init__.py", "from . import losses"),
        ("robust_clip/objectives/tecoa.py", "from robust_clip.attacks.losses import CrossEntropy"),
        ("robust_clip/cli/train.py", "from robust_clip.training import AdversarialTrainer"),
        ("robust_clip/data/rows.py", "import datasets, robust_clip_extras"),
    ],
)
def test_grants_import(path, source):
    assert not import_complaints(path, source)


def test_refuses_undeclared_dependency():
    source = "import math, torch\ndef load():\n    from PIL import Image"
    assert len(dependency_complaints("robust_clip/paper.py", source, {"torch"})) == 1
    assert not dependency_complaints("robust_clip/paper.py", source, {"torch", "pillow"})


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("robust_clip/attacks/utils.py", ""),
        ("robust_clip/attacks/white_box/pgd.py", ""),
        ("robust_clip/paper.py", "\n" * 301),
        ("robust_clip/paper.py", "class Paper:\n    async def read(self):" + "\n        pass" * 50),
        ("robust_clip/paper.py", "class Paper:\n    def __init__(self, *, a, b, c, d, e, f, g, h, i): ..."),
        ("robust_clip/paper.py", "class Paper:\n    def __init__(self, a, b=1, c=1, *, d, e, f, g, h, i, j): ..."),
    ],
)
def test_refuses_size(path, source):
    assert len(size_complaints(path, source)) == 1


def test_a_docstring_does_not_make_a_function_long():
    docstring = '"""Cite.' + "\n" * 30 + '"""'
    assert not size_complaints("robust_clip/paper.py", f"def cite():\n    {docstring}" + "\n    pass" * 40)


@pytest.mark.parametrize(
    "source",
    [
        "ATTACKS = {attack.name: attack for attack in (FGSM, PGD)}",
        "ATTACKS: dict[str, type] = dict(pgd=PGD)",
        "ATTACKS = {**WHITE_BOX, 'square': Square}",
        "ATTACKS['pgd'] = PGD",
        "def add(attack):\n    attacks.ATTACKS.update(pgd=attack)",
        "@register('pgd')\nclass PGD: ...",
    ],
)
def test_refuses_registry(source):
    assert len(registry_complaints("robust_clip/attacks/__init__.py", source)) == 1


def test_reads_a_literal_registry():
    assert literal_keys("ATTACKS: dict[str, type] = {'fgsm': FGSM, 'pgd': PGD}", "ATTACKS") == ["fgsm", "pgd"]
    assert literal_keys("ATTACKS = dict(pgd=PGD)", "ATTACKS") is None
    assert literal_keys("", "ATTACKS") is None


def test_refuses_a_stem_that_is_missing_somewhere():
    places = {"objectives": {"base", "tecoa", "caw"}, "recipes": {"tecoa", "accelerate", "fare"}}
    assert stem_complaints(places) == ["`caw` is not in recipes", "`fare` is not in objectives"]


@pytest.mark.parametrize(
    "source",
    [
        '"""Doc."""\nfrom .paper import Paper\nfrom .attacks import PGD\n__all__ = ["Paper", "PGD"]',
        '"""Doc."""\nfrom .paper import Paper\n__all__ = []',
        '"""Doc."""\nimport torch\n__all__ = []',
        '"""Doc."""',
    ],
)
def test_refuses_public_names(source):
    assert len(public_name_complaints(source)) == 1


def test_grants_public_names():
    source = '"""Doc."""\nfrom .attacks import PGD, Attack, judge\n__all__ = ["PGD", "Attack", "judge"]'
    assert not public_name_complaints(source)
