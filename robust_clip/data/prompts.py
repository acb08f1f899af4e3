"""Templates: how a class name becomes a sentence, as the papers and CLIP's own evaluation do it."""

import json

from .class_names import ASSETS

# The one template of the TeCoA code family, without a full stop.
PAPER_TEMPLATE = "This is a photo of a {}"

# What the same code (https://github.com/cvlab-columbia/ZSRobust4FoundationModel and its forks) uses instead where the
# data set brings its own, and for the sets of this project that no paper has, the data set's entry in CLIP's published
# prompts or, where there is none, ours.
SINGLE_TEMPLATES: dict[str, str] = {
    "caltech256": "A photo of a {}.",
    "country211": "A photo I took in {}.",
    "digits": 'a photo of the number: "{}".',
    "dtd": "A surface with a {} texture.",
    "dtd_10": "a photo of a {} texture.",
    "eurosat": "A centered satellite photo of {}.",
    "fgvc_aircraft": "A photo of a {}, a type of aircraft.",
    "flowers102": "A photo of a {}, a type of flower.",
    "food101": "A photo of {}, a type of food.",
    "gtsrb": 'a photo of a "{}" traffic sign.',
    "mnist": 'a photo of the number: "{}".',
    "oxford_pets": "A photo of a {}, a type of pet.",
    "pcam": "this is a photo of {}",
    # The papers' sentences stand in the place of class names.
    "pcam_sentences": "{}",
    "rsscn7": "a centered satellite photo of {}.",
    "stanford_cars": "A photo of a {}.",
    "svhn": 'a photo of the number: "{}".',
}

# Small ensembles of ours in the manner of CLIP's; also the sentences that captions are made of.
ENSEMBLE_TEMPLATES: dict[str, tuple[str, ...]] = {
    "default": (
        PAPER_TEMPLATE,
        "a photo of a {}.",
        "a blurry photo of a {}.",
        "a low resolution photo of the {}.",
        "a cropped photo of a {}.",
        "a picture of the {}.",
    ),
    "digits": ('a photo of the number: "{}".', "the digit {}.", "a handwritten {}."),
    "dtd": ("a photo of a {} texture.", "a photo of a {} pattern.", "a photo of a {} thing."),
    "gtsrb": ('a photo of a "{}" traffic sign.', 'a zoomed in photo of a "{}" traffic sign.', "a traffic sign: {}."),
    "pcam_sentences": ("{}",),
    "rsscn7": ("a centered satellite photo of {}.", "a satellite photo of {}.", "an aerial view of {}."),
}
_SAME_ENSEMBLE = {"mnist": "digits", "svhn": "digits", "dtd_10": "dtd"}

# CLIP's published prompts as CLIP_benchmark (https://github.com/LAION-AI/CLIP_benchmark) has them, which papers that
# average over prompts use; those of PCAM and SVHN are its own. For some sets they are one sentence.
CLIP_TEMPLATES: dict[str, list[str]] = json.loads((ASSETS / "clip_templates.json").read_text(encoding="utf-8"))

# Sets that share a list of it. CLIP_benchmark gives ImageNet's also to whatever it has no list for; we do so only
# where the images are ImageNet's or of its classes.
_SAME_CLIP_TEMPLATES = {
    "cifar10": "cifar",
    "cifar100": "cifar",
    "digits": "mnist",
    "dtd_10": "dtd",
    "imagenet_a": "imagenet",
    "imagenet_c": "imagenet",
    "imagenet_r": "imagenet",
    "imagenet_sketch": "imagenet",
    "imagenet_v2": "imagenet",
    "imagenette": "imagenet",
    "tiny_imagenet": "imagenet",
}


def templates_for(dataset: str, policy: str = "single") -> tuple[str, ...]:
    """Templates of a data set under a policy.

    Args:
        dataset: Name of a data set; any.
        policy: `single`: the papers' one sentence. `ensemble`: the package's small ensemble. `clip`: CLIP's published
            sentences or, where it has none for the data set, the package's ensemble.

    >>> templates_for("cifar10")
    ('This is a photo of a {}',)
    >>> [len(templates_for("imagenet", policy)) for policy in ("single", "ensemble", "clip")]
    [1, 6, 80]

    Raises:
        ValueError: If the policy is none of these.
    """
    if policy == "single":
        return (SINGLE_TEMPLATES.get(dataset, PAPER_TEMPLATE),)
    if policy == "clip" and has_clip_templates(dataset):
        return tuple(CLIP_TEMPLATES[_SAME_CLIP_TEMPLATES.get(dataset, dataset)])
    if policy in ("ensemble", "clip"):
        return ENSEMBLE_TEMPLATES.get(_SAME_ENSEMBLE.get(dataset, dataset), ENSEMBLE_TEMPLATES["default"])
    raise ValueError(f"Unknown template policy {policy!r}; allowed: single, ensemble, clip.")


def has_clip_templates(dataset: str) -> bool:
    """Whether CLIP has published sentences for a data set.

    >>> has_clip_templates("cifar10"), has_clip_templates("caltech256")
    (True, False)
    """
    return _SAME_CLIP_TEMPLATES.get(dataset, dataset) in CLIP_TEMPLATES
