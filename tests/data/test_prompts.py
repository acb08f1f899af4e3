"""Templates are data: each has a place for the name."""

import pytest

from robust_clip.data import DATASETS, templates_for
from robust_clip.data.prompts import CLIP_TEMPLATES, ENSEMBLE_TEMPLATES, SINGLE_TEMPLATES, has_clip_templates


def test_every_template_has_one_place_for_the_name():
    groups = [*ENSEMBLE_TEMPLATES.values(), *CLIP_TEMPLATES.values()]
    templates = [*SINGLE_TEMPLATES.values(), *(t for group in groups for t in group)]
    assert [template for template in templates if template.count("{}") != 1] == []


@pytest.mark.parametrize("name", [*DATASETS, "photos of my own"])
def test_single_is_one_and_an_ensemble_is_several_without_repetition(name):
    assert len(templates_for(name)) == 1
    ensemble = templates_for(name, "ensemble")
    # Where the papers' sentences stand in the place of class names, there is nothing to vary.
    assert len(set(ensemble)) == len(ensemble) >= (1 if templates_for(name) == ("{}",) else 3)


def test_clips_sentences_are_as_many_as_published():
    names = ("imagenet", "imagenet_c", "cifar10", "caltech101", "stanford_cars", "dtd", "country211", "oxford_pets")
    assert [len(templates_for(name, "clip")) for name in names] == [80, 80, 18, 34, 8, 8, 5, 1]
    assert all(len(set(group)) == len(group) for group in CLIP_TEMPLATES.values())


def test_where_clip_has_none_the_packages_ensemble_stands_in():
    without = [name for name in DATASETS if not has_clip_templates(name)]
    assert without == ["caltech256", "coco", "flickr30k", "flickr8k", "pcam_sentences"]
    assert templates_for("caltech256", "clip") == ENSEMBLE_TEMPLATES["default"]


def test_sets_of_one_kind_share_their_sentences():
    assert templates_for("mnist", "ensemble") == templates_for("digits", "ensemble")
    assert templates_for("dtd_10", "ensemble") == templates_for("dtd", "ensemble")
    assert templates_for("cifar10", "ensemble") == ENSEMBLE_TEMPLATES["default"]


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="Unknown template policy 'both'; allowed: single, ensemble, clip"):
        templates_for("cifar10", "both")
