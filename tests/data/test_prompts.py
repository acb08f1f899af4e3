"""Templates are data: each has a place for the name."""

import pytest

from robust_clip.data import DATASETS, templates_for
from robust_clip.data.prompts import ENSEMBLE_TEMPLATES, SINGLE_TEMPLATES


def test_every_template_has_one_place_for_the_name():
    templates = [*SINGLE_TEMPLATES.values(), *(t for group in ENSEMBLE_TEMPLATES.values() for t in group)]
    assert [template for template in templates if template.count("{}") != 1] == []


@pytest.mark.parametrize("name", [*DATASETS, "photos of my own"])
def test_single_is_one_and_an_ensemble_is_several_without_repetition(name):
    assert len(templates_for(name)) == 1
    ensemble = templates_for(name, "ensemble")
    assert len(set(ensemble)) == len(ensemble) >= 3


def test_sets_of_one_kind_share_their_sentences():
    assert templates_for("mnist", "ensemble") == templates_for("digits", "ensemble")
    assert templates_for("dtd_10", "ensemble") == templates_for("dtd", "ensemble")
    assert templates_for("cifar10", "ensemble") == ENSEMBLE_TEMPLATES["default"]


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="Unknown template policy 'both'; allowed: single, ensemble"):
        templates_for("cifar10", "both")
