"""Recipes: what YAML says, what the command line changes, and how mistakes are answered."""

from dataclasses import dataclass

import pytest

from robust_clip.attacks import ATTACKS, PGD
from robust_clip.cli.recipe import SECTIONS, choose, construct, load_recipe
from robust_clip.objectives import OBJECTIVES, Contrastive
from robust_clip.threat_model import ThreatModel
from robust_clip.training import AdversarialTrainingArguments

RECIPE = """
model: openai/clip-vit-base-patch32
objective: {name: contrastive, max_logit_scale: 50}
threat_model: {norm: linf, epsilon: 4/255}
training:
  learning_rate: 1e-5
  warmup: [1E-3, 2e+2, "3e-1", 1.5e3]
"""


@pytest.fixture
def recipe(tmp_path):
    """Function from overrides to the recipe."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return lambda *overrides: load_recipe(tmp_path / "recipe.yaml", overrides)


def written(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    return tmp_path / "recipe.yaml"


def test_sections_are_mappings_and_a_name_alone_will_do(recipe):
    assert recipe() == {
        "model": {"name": "openai/clip-vit-base-patch32"},
        "objective": {"name": "contrastive", "max_logit_scale": 50},
        "threat_model": {"norm": "linf", "epsilon": "4/255"},
        "training": {"learning_rate": 1e-5, "warmup": [1e-3, 200.0, "3e-1", 1500.0]},
    }


@pytest.mark.parametrize(
    ("section", "key"),
    [("model", "name"), ("objective", "name"), ("attack", "name"), ("adaptation", "name"), ("data", "train")],
)
def test_a_scalar_is_the_sections_main_key(tmp_path, section, key):
    assert load_recipe(written(tmp_path, f"{section}: x"))[section] == {key: "x"}
    assert load_recipe(written(tmp_path, ""), [f"--{section}", "x"])[section] == {key: "x"}


@pytest.mark.parametrize(
    ("overrides", "section", "expected"),
    [
        (["--training.learning_rate", "3e-5"], "training", {"learning_rate": 3e-5}),
        (["--training.seed", "7"], "training", {"seed": 7}),
        (["--training.bf16", "true"], "training", {"bf16": True}),
        (["--training.run_name", "'7'"], "training", {"run_name": "7"}),
        (["--threat_model.epsilon", "2/255"], "threat_model", {"norm": "linf", "epsilon": "2/255"}),
        (["--model", "other/clip"], "model", {"name": "other/clip"}),
        (["--model.revision", "v2"], "model", {"name": "openai/clip-vit-base-patch32", "revision": "v2"}),
        (["--objective", "tecoa"], "objective", {"name": "tecoa", "max_logit_scale": 50}),
        (["--data.augmentation.min_scale", "0.5"], "data", {"augmentation": {"min_scale": 0.5}}),
        (["--data", "a", "--data.train.b", "2"], "data", {"train": {"b": 2}}),
        (["--threat_model", "null"], "threat_model", {}),
        (["--training.seed", "1", "--training.seed", "2"], "training", {"seed": 2}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_overrides_change_what_they_name(recipe, overrides, section, expected):
    changed, plain = recipe(*overrides), recipe()
    if section == "training":
        expected = {**plain["training"], **expected}
    assert changed[section] == expected
    assert all(changed[other] == plain[other] for other in plain if other != section)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--training.seed"], "'--training.seed' has no partner"),
        (["--trainings.seed", "1"], "Unknown option '--trainings.seed'.*--SECTION.KEY VALUE with model, objective"),
        (["training.seed", "1"], "Unknown option 'training.seed'"),
        (["--training.seed", "{"], "The value '{' of --training.seed is not YAML"),
        (["--training", "7"], "Section training must be a mapping of keys to values, got 7"),
    ],
)
def test_bad_overrides_are_refused(recipe, overrides, message):
    with pytest.raises(ValueError, match=message):
        recipe(*overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer: {seed: 1}", f"Unknown section 'trainer' in the recipe; allowed: {', '.join(SECTIONS)}"),
        ("model: [", "is not YAML"),
        ("- model", "must be a mapping of sections, got list"),
        ("just words", "must be a mapping of sections, got str"),
        ("training: 3", "Section training must be a mapping of keys to values, got 3"),
        ("threat_model: linf", "Section threat_model must be a mapping of keys to values, got 'linf'"),
        ("data: [cifar10]", "Section data must be a mapping"),
    ],
)
def test_bad_recipes_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(written(tmp_path, text))


def test_a_recipe_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Cannot read the recipe .*nowhere\.yaml: No such file"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_an_empty_section_is_an_empty_mapping(tmp_path):
    assert load_recipe(written(tmp_path, "attack:\ntraining: {}")) == {"attack": {}, "training": {}}
    assert load_recipe(written(tmp_path, "")) == {}


def test_choosing_gives_what_the_section_says():
    assert choose("attack", ATTACKS, {"name": "pgd", "steps": 3, "step_size": "1/255"}) == PGD(
        steps=3, step_size="1/255"
    )
    assert choose("objective", OBJECTIVES, {"name": "contrastive", "max_logit_scale": 50}) == Contrastive(
        max_logit_scale=50
    )


@pytest.mark.parametrize(
    ("section", "registry", "name"),
    [
        ("objective", OBJECTIVES, "nope"),
        ("attack", ATTACKS, "gpd"),
        ("attack", ATTACKS, None),
        ("attack", ATTACKS, ["pgd"]),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(section, registry, name):
    with pytest.raises(ValueError, match=f"Unknown {section} .*; known: {', '.join(sorted(registry))}") as error:
        choose(section, registry, {"name": name})
    assert repr(name) in str(error.value)
    with pytest.raises(ValueError, match=f"Unknown {section} None"):
        choose(section, registry, {})


@pytest.mark.parametrize(
    ("name", "keys"), [("pgd", "random_start, restarts, step_size, steps"), ("fgsm", "random_start")]
)
def test_an_unknown_key_is_answered_with_the_known_ones(name, keys):
    with pytest.raises(ValueError, match=f"Unknown key 'colour' in section attack; allowed: {keys}"):
        choose("attack", ATTACKS, {"name": name, "colour": 2})


def test_a_misspelt_key_or_name_is_answered_with_the_one_that_was_meant(tmp_path):
    """And not with all that there are: the arguments of a Trainer fill a screen."""
    message = r"Unknown key 'max_step' in section training; did you mean max_steps\? Allowed: .*seed"
    with pytest.raises(ValueError, match=message):
        construct("training", AdversarialTrainingArguments, {"output_dir": "out", "max_step": 3})
    with pytest.raises(ValueError, match=r"Unknown attack 'auto-attack'; did you mean auto_attack\? Known: .*pgd"):
        choose("attack", ATTACKS, {"name": "auto-attack"})
    with pytest.raises(ValueError, match=r"Unknown section 'trainig' .* did you mean training\? Allowed: model"):
        load_recipe(written(tmp_path, "trainig: {}"))


def test_values_are_judged_by_what_they_are_for():
    with pytest.raises(ValueError, match=r"did you mean 4/255\?"):
        construct("threat_model", ThreatModel, {"norm": "linf", "epsilon": 4})
    with pytest.raises(ValueError, match="Section threat_model: .*missing 1 required positional argument: 'epsilon'"):
        construct("threat_model", ThreatModel, {"norm": "linf"})


def test_keys_may_be_called_otherwise_than_parameters():
    @dataclass
    class Source:
        name: str
        split: str = "train"

    assert construct("data", Source, {"train": "x", "split": "y"}, renamed={"train": "name"}) == Source("x", "y")
    with pytest.raises(ValueError, match="Unknown key 'name' in section data; allowed: split, train"):
        construct("data", Source, {"name": "x"}, renamed={"train": "name"})


def test_functions_can_be_fed_too():
    def build(width: int, depth: int = 2) -> tuple[int, int]:
        return width, depth

    assert construct("model", build, {"width": 3}) == (3, 2)
    with pytest.raises(ValueError, match="Unknown key 'height' in section model; allowed: depth, width"):
        construct("model", build, {"height": 3})
