"""What a card says of data: what was read in training, from where, and the licences of all that it names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# In a record of training: a list of what each data set was read from, which the card tells in one line with `data`.
READ = "data read"


@dataclass(frozen=True)
class DataFacts:
    """What a card says of a data set besides its name.

    Args:
        hub_id: Repository on the Hub, `None` if there is none or it is not known.
        licence: As stated by the source.
    """

    hub_id: str | None = None
    licence: str = "unknown"


def is_hub_id(name: str | None) -> bool:
    """Whether a name may be that of a repository on the Hub, `owner/name`.

    >>> is_hub_id("openai/clip-vit-base-patch32"), is_hub_id("nano_clip"), is_hub_id("/home/me/out")
    (True, False, False)
    """
    return name is not None and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None


def trained_data(record: Mapping[str, Any]) -> list[str]:
    """Names of the data sets that a record of training names, without their splits.

    >>> trained_data({"data": "cifar10/train, tiny_imagenet/train"})
    ['cifar10', 'tiny_imagenet']
    """
    return [part.rpartition("/")[0] for part in str(record.get("data", "")).split(", ") if "/" in part]


def trained_from_hub(record: Mapping[str, Any]) -> dict[str, str]:
    """Repositories on the Hub that the data of a training came from, by name; of a record that tells none, none.

    >>> trained_from_hub({"data read": [{"data": "cifar10/train", "hub id": "uoft-cs/cifar10"}]})
    {'cifar10': 'uoft-cs/cifar10'}
    >>> trained_from_hub({"data": "cifar10/train"})
    {}
    """
    found = ((read["data"].rpartition("/")[0], read.get("hub id")) for read in record.get(READ, ()))
    return {name: hub_id for name, hub_id in found if is_hub_id(hub_id)}


def data_text(record: Mapping[str, Any]) -> str:
    """Data sets of a training, and how many images of each were read from where.

    >>> read = [{"data": "tiny_imagenet/train", "images": 900, "from": "a local copy"}]
    >>> data_text({"data": "tiny_imagenet/train", "data read": read})
    'tiny_imagenet/train, 900 images, read from a local copy'
    """
    told = [f"{read['data']}, {read['images']} images, read from {read['from']}" for read in record.get(READ, ())]
    return "; ".join(told) or str(record.get("data", ""))


def data_licences(record: Mapping[str, Any], measured: Sequence[str], facts: Mapping[str, DataFacts]) -> list[str]:
    """A line for each data set: what it was used for, and its licence.

    The repository is linked of what was measured on, and of what was trained on if it was read from there.
    """
    trained, from_hub = trained_data(record), trained_from_hub(record)
    lines = []
    for name in dict.fromkeys([*trained, *measured]):
        known = facts.get(name, DataFacts(name if is_hub_id(name) else None))
        uses = " and ".join(use for use, names in (("trained", trained), ("measured", measured)) if name in names)
        hub_id = known.hub_id if name in measured else from_hub.get(name)
        link = f"[{name}](https://huggingface.co/datasets/{hub_id})" if is_hub_id(hub_id) else name
        lines.append(f"{link} ({uses} on): {'none stated' if known.licence == 'unknown' else known.licence}")
    return lines
