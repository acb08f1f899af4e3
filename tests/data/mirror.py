"""Small folders laid out as the repositories of the Hub are: the same file names, columns, splits and class names."""

import io
import tarfile

import datasets

from robust_clip.data import DATASETS
from robust_clip.data.class_names import ASSETS
from tests.data.conftest import encoded, picture

IMAGENET_IDS = [f"n{10_000_000 + 7 * label:08d}" for label in range(1000)]
CAPTIONS = ["A dog in snow.", "Two dogs"]

# What the image column of CLIP_benchmark's repositories is called where the row of the table leaves it open.
_FORMATS = {"imagenet_a": "jpg", "fgvc_aircraft": "jpg", "flickr8k": "jpg", "flickr30k": "jpg", "coco": "jpg"}
_README = """---
configs:
- config_name: {config}
  data_files:
{files}
---
# A card
"""


def labels_of(count, split):
    """Three labels that tell the test split from the others; the last class is among them."""
    return [count - 1, 0, 1] if split == "test" else [0, 0, count - 1]


def shard(path, examples):
    """A tar file of examples: for each, a mapping of file extensions to bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for row, example in enumerate(examples):
            for extension, data in example.items():
                member = tarfile.TarInfo(f"s{row:07d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def image_bytes(extension, seed):
    """A noisy image of 20x16 pixels."""
    kind = {"jpg": "JPEG", "webp": "WEBP"}[extension]
    return encoded(picture(20, 16, seed=seed), format=kind)["bytes"]


def shards(folder, extension, count=None, splits=("train", "test")):
    """CLIP_benchmark's layout: a shard a split, `nshards.txt`, and class names or the type of the data set."""
    for split in splits:
        examples = [{extension: image_bytes(extension, seed)} for seed in range(3)]
        for row, example in enumerate(examples):
            text = "\n".join(CAPTIONS) if count is None else str(labels_of(count, split)[row])
            example["txt" if count is None else "cls"] = text.encode()
        shard(folder / split / "0.tar", examples)
        (folder / split / "nshards.txt").write_text("1\n")
    if count is None:
        (folder / "dataset_type.txt").write_text("retrieval\n")
        return
    (folder / "classnames.txt").write_text("".join(f"Thing-{label}_x\n" for label in range(count)))
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")


def parquet(folder, files, names, columns=("image", "label"), config=None, text=False):
    """Parquet files, with a card that lists them if the real one does; `names` of `None` leaves plain integers."""
    image, label = columns
    count = 257 if names is None else len(names)
    for split, file in files.items():
        features = {image: datasets.Image(), label: datasets.Value("int64") if names is None else None}
        features[label] = features[label] or datasets.ClassLabel(names=names)
        content = {image: [encoded(picture(20, 16, seed=seed)) for seed in range(3)]}
        content[label] = labels_of(count, "test" if split in ("test", "valid", "validation") else "train")
        if text:
            content[label] = list(range(257)) if split == "train" else content[label]
            content[image] = [encoded(picture(20, 16, seed=seed)) for seed in content[label]]
            content["text"] = [f"{label + 1:03d}.some-thing-{chr(97 + label % 26)}{label}" for label in content[label]]
            features["text"] = datasets.Value("string")
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(content, datasets.Features(features)).to_parquet(folder / file)
    if config:
        listed = "\n".join(f"  - split: {split}\n    path: {file.split('-0')[0]}-*" for split, file in files.items())
        (folder / "README.md").write_text(_README.format(config=config, files=listed))


def tiny_imagenet_ids():
    """The WordNet ids of its classes, in the order of its labels."""
    return [line.split()[0] for line in (ASSETS / "tiny_imagenet_names.txt").read_text().splitlines()]


def _numbered(count):
    return [f"Thing-{label}_x" for label in range(count)]


def build(name, root):
    """The repository of a row of the table, under `root`; of `imagenet_c`, fog of severity 5."""
    row = DATASETS[name]
    folder = root / row.locate("fog/5" if name == "imagenet_c" else "test")[0]
    of = {"train": "data/train-00000-of-00001.parquet"}
    if folder.exists():
        return
    if row.in_shards:
        extension = row.image or _FORMATS.get(name, "webp")
        only_test = {"imagenet_a", "imagenet_r", "imagenet_v2", "imagenet_sketch", "sun397"}
        splits = ("test",) if name in only_test else ("train", "test")
        shards(folder, extension, None if row.captions else row.names.count, splits)
    elif name in ("cifar10", "cifar100", "mnist"):
        config = {"mnist": "mnist", "cifar10": "plain_text", "cifar100": "cifar100"}[name]
        files = {split: f"{config}/{split}-00000-of-00001.parquet" for split in ("train", "test")}
        parquet(folder, files, _numbered(row.names.count), (row.image, row.label), config)
    elif name == "food101":
        files = of | {"validation": "data/validation-00000-of-00001.parquet"}
        parquet(folder, files, _numbered(101), config="default")
    elif name == "tiny_imagenet":
        files = {
            "train": "data/train-00000-of-00001-1359597a978bc4fa.parquet",
            "valid": "data/valid-00000-of-00001-70d52db3c749a935.parquet",
        }
        parquet(folder, files, tiny_imagenet_ids())
    elif name == "imagenet_c":
        parquet(folder, {"validation": "data/validation-00000-of-00001.parquet"}, IMAGENET_IDS, config="default")
        build("imagenet", root)
    elif name == "caltech256":
        files = of | {split: f"data/{split}-00000-of-00001.parquet" for split in ("test", "validation")}
        parquet(folder, files, None, config="default", text=True)
