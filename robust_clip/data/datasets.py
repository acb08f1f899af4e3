"""Data sets as rows of a table: where each lives, what its parts are called, and what of that has been seen.

Ids, splits and columns were read off the pages of the Hub. What could not be read is named in the row, and
`robust-clip datasets check NAME` tries a row against the Hub itself.
"""

from dataclasses import dataclass

from .class_names import ClassNames

# The fifteen of ImageNet-C (https://huggingface.co/papers/1903.12261), without its four extra ones.
CORRUPTIONS = (
    "brightness",
    "contrast",
    "defocus_blur",
    "elastic_transform",
    "fog",
    "frost",
    "gaussian_noise",
    "glass_blur",
    "impulse_noise",
    "jpeg_compression",
    "motion_blur",
    "pixelate",
    "shot_noise",
    "snow",
    "zoom_blur",
)
SEVERITIES = ("1", "2", "3", "4", "5")


@dataclass(frozen=True)
class DatasetRow:
    """Where a data set lives and what its columns are called.

    Attributes:
        hub_id: Repository on the Hub, or `None` for a set that comes with an installed package. With `{corruption}`
            and `{severity}` in it there is a repository for each, and a split is called `gaussian_noise/3`.
        test: Name of the split that papers evaluate on; splits are joined with `+`.
        image: Image column; `None` for the only one.
        label: Label column; `None` for the only `ClassLabel`, or for captions.
        captions: Column of captions, for retrieval.
        names: Where class names come from and how they are cleaned.
        licence: As stated by the source.
        unconfirmed: What of the row could not be read off the Hub; empty if all could.
    """

    hub_id: str | None
    test: str = "test"
    image: str | None = "image"
    label: str | None = "label"
    captions: str | None = None
    names: ClassNames = ClassNames()
    licence: str = "unknown"
    unconfirmed: str = ""

    @property
    def in_shards(self) -> bool:
        """Whether the repository is laid out by CLIP_benchmark: `test/0.tar`, `test/nshards.txt`, `classnames.txt`."""
        return self.hub_id is not None and "/wds_" in self.hub_id

    def locate(self, split: str) -> tuple[str, str]:
        """Repository and split there.

        >>> DATASETS["food101"].locate("test")
        ('ethz/food101', 'validation')
        >>> DATASETS["imagenet_c"].locate("fog/5")
        ('Tsomaros/ImageNet-C-fog-severity_5', 'validation')

        Raises:
            ValueError: If the set comes with a package, or the split of a corrupted set is not a corruption and a
                severity.
        """
        if self.hub_id is None:
            raise ValueError("The data set comes with an installed package, not from the Hub.")
        if "{corruption}" not in self.hub_id:
            return self.hub_id, self.test if split == "test" else split
        corruption, _, severity = split.partition("/")
        if corruption not in CORRUPTIONS or severity not in SEVERITIES:
            raise ValueError(
                f"No split {split!r}: here a split is a corruption and a severity from 1 to 5, such as "
                f"gaussian_noise/3. Corruptions: {', '.join(CORRUPTIONS)}."
            )
        return self.hub_id.format(corruption=corruption, severity=severity), self.test


DATASETS: dict[str, DatasetRow] = {
    # CLIP_benchmark's test part of 6,085 images and 102 classes; the TeCoA family takes all images of 101 classes.
    "caltech101": DatasetRow(
        "clip-benchmark/wds_vtab-caltech101", image="webp", label="cls", names=ClassNames(102), licence="CC-BY-4.0"
    ),
    # All 30,607 images, as papers take them: the source's parts are its own.
    "caltech256": DatasetRow(
        "ilee0022/Caltech-256",
        test="train+test+validation",
        names=ClassNames(257, column="text", cleaned=True),
        licence="CC-BY-4.0",
        unconfirmed="that column text holds the class name",
    ),
    "cifar10": DatasetRow("uoft-cs/cifar10", image="img", names=ClassNames(10, cleaned=True)),
    "cifar100": DatasetRow("uoft-cs/cifar100", image="img", label="fine_label", names=ClassNames(100, cleaned=True)),
    "coco": DatasetRow(
        "clip-benchmark/wds_mscoco_captions",
        image=None,
        label=None,
        captions="txt",
        licence="captions CC-BY-4.0, images as on Flickr",
        unconfirmed="columns",
    ),
    "country211": DatasetRow("clip-benchmark/wds_country211", image="jpg", label="cls", names=ClassNames(211)),
    "digits": DatasetRow(None, licence="CC-BY-4.0", names=ClassNames(10)),
    "dtd": DatasetRow(
        "clip-benchmark/wds_vtab-dtd", image=None, label="cls", names=ClassNames(47), unconfirmed="repository, columns"
    ),
    # CLIP_benchmark's test part of 5,400 images; the TeCoA family takes all 27,000.
    "eurosat": DatasetRow(
        "clip-benchmark/wds_vtab-eurosat", image="webp", label="cls", names=ClassNames(10), licence="MIT"
    ),
    "fgvc_aircraft": DatasetRow(
        "clip-benchmark/wds_fgvc_aircraft",
        image=None,
        label="cls",
        names=ClassNames(100),
        licence="non-commercial",
        unconfirmed="columns",
    ),
    "flickr30k": DatasetRow(
        "clip-benchmark/wds_flickr30k",
        image=None,
        label=None,
        captions="txt",
        licence="non-commercial",
        unconfirmed="columns",
    ),
    "flickr8k": DatasetRow(
        "clip-benchmark/wds_flickr8k",
        image=None,
        label=None,
        captions="txt",
        licence="non-commercial",
        unconfirmed="columns",
    ),
    "flowers102": DatasetRow(
        "clip-benchmark/wds_vtab-flowers",
        image=None,
        label="cls",
        names=ClassNames(102),
        unconfirmed="repository, columns",
    ),
    "food101": DatasetRow("ethz/food101", test="validation", names=ClassNames(101, cleaned=True)),
    "gtsrb": DatasetRow("clip-benchmark/wds_gtsrb", image="webp", label="cls", names=ClassNames(43)),
    # The validation set of 50,000 images, which is what everyone tests on.
    "imagenet": DatasetRow(
        "clip-benchmark/wds_imagenet1k", image="jpg", label="cls", names=ClassNames(1000), licence="non-commercial"
    ),
    "imagenet_a": DatasetRow(
        "clip-benchmark/wds_imagenet-a",
        image=None,
        label="cls",
        names=ClassNames(200),
        licence="MIT",
        unconfirmed="columns",
    ),
    # Its classes go by WordNet ids, in the order of ImageNet's labels.
    "imagenet_c": DatasetRow(
        "Tsomaros/ImageNet-C-{corruption}-severity_{severity}",
        test="validation",
        names=ClassNames(1000, repository="clip-benchmark/wds_imagenet1k"),
        licence="CC-BY-4.0",
        unconfirmed="that there is a repository for all 75 (fog, gaussian_noise, pixelate, zoom_blur were seen)",
    ),
    "imagenet_r": DatasetRow(
        "clip-benchmark/wds_imagenet-r", image="jpg", label="cls", names=ClassNames(200), licence="MIT"
    ),
    "imagenet_sketch": DatasetRow(
        "clip-benchmark/wds_imagenet_sketch", image="jpg", label="cls", names=ClassNames(1000)
    ),
    "imagenet_v2": DatasetRow(
        "clip-benchmark/wds_imagenetv2", image="webp", label="cls", names=ClassNames(1000), licence="MIT"
    ),
    "mnist": DatasetRow("ylecun/mnist", names=ClassNames(10), licence="MIT"),
    "oxford_pets": DatasetRow(
        "clip-benchmark/wds_vtab-pets", image="webp", label="cls", names=ClassNames(37), licence="CC-BY-SA-4.0"
    ),
    "pcam": DatasetRow(
        "clip-benchmark/wds_vtab-pcam",
        image=None,
        label="cls",
        names=ClassNames(2),
        licence="CC0-1.0",
        unconfirmed="columns",
    ),
    # The same images under the two sentences of the TeCoA family, whose first begins "Tthis" there.
    "pcam_sentences": DatasetRow(
        "clip-benchmark/wds_vtab-pcam",
        image=None,
        label="cls",
        names=ClassNames(
            2,
            listed=(
                "This is a photo of healthy lymph node tissue.",
                "This is a photo of lymph node tumor tissue.",
            ),
        ),
        licence="CC0-1.0",
        unconfirmed="columns",
    ),
    "stanford_cars": DatasetRow("clip-benchmark/wds_cars", image="jpg", label="cls", names=ClassNames(196)),
    "stl10": DatasetRow(
        "clip-benchmark/wds_stl10", image=None, label="cls", names=ClassNames(10), unconfirmed="columns"
    ),
    # All 108,754 images: the set has no parts of its own.
    "sun397": DatasetRow("clip-benchmark/wds_sun397", image="webp", label="cls", names=ClassNames(397)),
    "svhn": DatasetRow("clip-benchmark/wds_vtab-svhn", image="webp", label="cls", names=ClassNames(10)),
    # Classes go by WordNet ids there; the names are WordNet's first for each.
    "tiny_imagenet": DatasetRow(
        "zh-plus/tiny-imagenet",
        test="valid",
        names=ClassNames(200, wordnet="tiny_imagenet_names.txt", cleaned=True),
        licence="non-commercial",
    ),
}
