"""Templates: how a class name becomes a sentence, as the papers and CLIP's own evaluation do it."""

# The one template of the TeCoA code family, without a full stop.
PAPER_TEMPLATE = "This is a photo of a {}"

# What the same code (https://github.com/cvlab-columbia/ZSRobust4FoundationModel and its forks) uses instead where the
# data set brings its own, and for the sets of this project that no paper has, the data set's entry in CLIP's published
# prompts or, where there is none, ours.
SINGLE_TEMPLATES: dict[str, str] = {
    "caltech256": "A photo of a {}.",
    "country211": "A photo I took in {}.",
    "digits": 'a photo of the number: "{}".',
    "dtd": "a photo of a {} texture.",
    "dtd_10": "a photo of a {} texture.",
    "eurosat": "A centered satellite photo of {}.",
    "fgvc_aircraft": "A photo of a {}, a type of aircraft.",
    "flowers102": "A photo of a {}, a type of flower.",
    "food101": "A photo of {}, a type of food.",
    "gtsrb": 'a photo of a "{}" traffic sign.',
    "mnist": 'a photo of the number: "{}".',
    "oxford_pets": "A photo of a {}, a type of pet.",
    "rsscn7": "a centered satellite photo of {}.",
    "stanford_cars": "A photo of a {}.",
}

# A small ensemble in the manner of CLIP's; also the sentences that captions are made of.
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
    "rsscn7": ("a centered satellite photo of {}.", "a satellite photo of {}.", "an aerial view of {}."),
}
_SAME_ENSEMBLE = {"mnist": "digits", "dtd_10": "dtd"}


def templates_for(dataset: str, policy: str = "single") -> tuple[str, ...]:
    """Templates of a data set under a policy.

    >>> templates_for("cifar10")
    ('This is a photo of a {}',)
    >>> len(templates_for("mnist", "ensemble"))
    3

    Raises:
        ValueError: If the policy is neither `single` nor `ensemble`.
    """
    if policy == "single":
        return (SINGLE_TEMPLATES.get(dataset, PAPER_TEMPLATE),)
    if policy == "ensemble":
        return ENSEMBLE_TEMPLATES.get(_SAME_ENSEMBLE.get(dataset, dataset), ENSEMBLE_TEMPLATES["default"])
    raise ValueError(f"Unknown template policy {policy!r}; allowed: single, ensemble.")
