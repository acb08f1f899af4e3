"""What a run is on record for having read: which images, how many, and whether they came from the Hub."""

from pathlib import Path
from typing import Any

from datasets.naming import camelcase_to_snakecase

from robust_clip.data import DATASETS, ImageDataset, Mixture
from robust_clip.hub.card_data import READ


def data_record(data: ImageDataset | Mixture) -> dict[str, Any]:
    """Name and split of each data set; below `data read`, its number of images and where they were read from."""
    sources = data.sources if isinstance(data, Mixture) else [data]
    read: list[dict[str, Any]] = [
        {"data": f"{each.name}/{each.split}", "images": len(each), **_origin(each)} for each in sources
    ]
    return {"data": ", ".join(each["data"] for each in read), READ: read}


def _origin(data: ImageDataset) -> dict[str, str]:
    row = DATASETS.get(data.name)
    if row and row.hub_id is None and not data.rows.cache_files:
        return {"from": "an installed package"}
    if hub_id := hub_id_of(data):
        return {"from": f"{hub_id} on the Hub", "hub id": hub_id}
    return {"from": "a local copy"}


def hub_id_of(data: ImageDataset) -> str | None:
    """The repository on the Hub that images were downloaded from; `None` if they lay in a folder, or nothing tells.

    `datasets` keeps what it downloads below `owner___name`, and what lies in a folder below the name alone; shards
    say themselves which file each row is of, and downloaded ones lie in the Hub's cache, below
    `datasets--owner--name`.
    """
    row = DATASETS.get(data.name)
    hub_id = row.locate(data.split.partition(":")[0])[0] if row and row.hub_id else data.name
    if hub_id.count("/") != 1:
        return None
    owner, name = hub_id.split("/")
    places = [Path(file["filename"]) for file in data.rows.cache_files]
    if "__url__" in data.rows.column_names:
        places.append(Path(data.rows.select_columns("__url__")[0]["__url__"]))
    folders = {f"{owner}___{camelcase_to_snakecase(name)}", f"datasets--{owner}--{name}"}
    return hub_id if any(folders & set(place.parts) for place in places) else None
