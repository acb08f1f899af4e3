"""The `data` section of a recipe: mistakes are answered before anything is loaded."""

import pytest

from robust_clip.data import Augmentation, DataSource, Mixture
from tests.conftest import coloured_rows


@pytest.fixture
def root(tmp_path):
    """Folder with two data sets."""
    for seed, name in enumerate(("mnist", "things")):
        (tmp_path / name).mkdir()
        coloured_rows(6, seed=seed).to_parquet(tmp_path / name / "train.parquet")
    return str(tmp_path)


def test_one_data_set_with_the_papers_template(root):
    dataset = DataSource("mnist", root=root).load()
    assert (dataset.name, dataset.split, len(dataset)) == ("mnist", "train", 6)
    assert dataset.templates == ('a photo of the number: "{}".',)


@pytest.mark.parametrize(
    ("templates", "n", "first"),
    [
        ("single", 1, "This is a photo of a {}"),
        ("ensemble", 6, "This is a photo of a {}"),
        ("clip", 6, "This is a photo of a {}"),
        (["a {}", "{}"], 2, "a {}"),
    ],
)
def test_templates_are_a_policy_or_a_list(root, templates, n, first):
    dataset = DataSource("things", root=root, templates=templates).load()
    assert (len(dataset.templates), dataset.templates[0]) == (n, first)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(["blue", "red"], ["blue", "red"]), ("0:2", ["red", "green"]), ("2:", ["blue"]), (":1", ["red"])],
)
def test_some_classes_of_a_data_set(root, classes, expected):
    dataset = DataSource("things", root=root, classes=classes).load()
    assert (dataset.class_names, len(dataset)) == (expected, 2 * len(expected))


@pytest.mark.parametrize("classes", ["red", "0:1:2", "x:y", "3:", "2:1"])
def test_what_is_not_a_range_of_classes_is_refused(root, classes):
    with pytest.raises(ValueError, match="classes|class names"):
        DataSource("things", root=root, classes=classes).load()


@pytest.mark.parametrize("classes", [7, [0, 1], ["red", 1]])
def test_classes_that_yaml_read_as_numbers_are_refused(classes):
    with pytest.raises(ValueError, match="classes must be a list of strings .* put quotes around"):
        DataSource("things", classes=classes)


def test_a_mapping_is_a_mixture(root):
    mixture = DataSource({"things": 2, "mnist": 1}, root=root, templates="ensemble").load()
    assert isinstance(mixture, Mixture)
    assert len(mixture) == 18
    assert [source.name for source in mixture.sources] == ["things", "mnist"]
    assert len(mixture[17]["captions"]) == 3


def test_the_collator_has_the_settings_of_the_section():
    source = DataSource("x", resolution="model", on_bad_image="skip", augmentation={"min_scale": 0.7, "flip": True})
    collator = source.collator(32, seed=5)
    assert (collator.image_size, collator.resolution, collator.on_bad_image, collator.seed) == (32, "model", "skip", 5)
    assert collator.augmentation == Augmentation(min_scale=0.7, flip=True)
    assert DataSource("x").collator(32, seed=5).augmentation is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": "nativ"}, "resolution must be native or model"),
        ({"on_bad_image": "ignore"}, "on_bad_image must be raise or skip"),
        ({"augmentation": {"min_scale": 0.5}}, "set resolution to model"),
        (
            {"augmentation": {"minscale": 0.5}, "resolution": "model"},
            r"Unknown key 'minscale' in augmentation; did you mean min_scale\?",
        ),
        ({"augmentation": {"min_scale": 2}, "resolution": "model"}, "min_scale must lie in"),
        ({"templates": "double"}, "Unknown template policy 'double'; allowed: single, ensemble"),
    ],
)
def test_mistakes_are_answered_before_anything_is_loaded(settings, message):
    with pytest.raises(ValueError, match=message):
        DataSource("nowhere", **settings)


def test_a_template_without_a_place_for_the_name_is_refused(root):
    with pytest.raises(ValueError, match="a template needs a {}"):
        DataSource("things", root=root, templates=["a photo"]).load()
