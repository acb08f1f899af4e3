"""Lists of data sets that papers average over."""

# Hateful Memes, which some lists have, is behind a licence wall and left out. Where a paper trains on one of the sets,
# its average over the others is the zero-shot one.
SUITES: dict[str, tuple[str, ...]] = {
    # FARE (https://huggingface.co/papers/2402.12336), `benchmark/datasets.txt` of its code; 1000 images of each.
    "zero_shot_13_fare": (
        "cifar10",
        "cifar100",
        "stl10",
        "stanford_cars",
        "caltech101",
        "oxford_pets",
        "flowers102",
        "dtd",
        "eurosat",
        "fgvc_aircraft",
        "pcam",
        "imagenet_r",
        "imagenet_sketch",
    ),
    # TeCoA (https://huggingface.co/papers/2212.07016): the list in its code without ImageNet, which it trains on, and
    # Hateful Memes. The tables of the paper were not at hand: its fifteen may have that set in place of Country211.
    "zero_shot_15": (
        "cifar10",
        "cifar100",
        "stl10",
        "sun397",
        "stanford_cars",
        "food101",
        "oxford_pets",
        "flowers102",
        "country211",
        "dtd",
        "eurosat",
        "fgvc_aircraft",
        "pcam_sentences",
        "caltech101",
        "caltech256",
    ),
    # PMG-AFT (https://huggingface.co/papers/2401.04350) and TGA-ZSR (https://huggingface.co/papers/2410.21802), the
    # list in the code of both; they train on Tiny-ImageNet.
    "zero_shot_16": (
        "tiny_imagenet",
        "cifar10",
        "cifar100",
        "stl10",
        "sun397",
        "food101",
        "oxford_pets",
        "flowers102",
        "dtd",
        "eurosat",
        "fgvc_aircraft",
        "imagenet",
        "caltech101",
        "caltech256",
        "stanford_cars",
        "pcam_sentences",
    ),
}
