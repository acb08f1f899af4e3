"""The card of a folder of weights: what is known of them, gathered for `render_card`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from robust_clip.attacks import ATTACKS
from robust_clip.attacks.text_registry import TEXT_ATTACKS
from robust_clip.data import DATASETS
from robust_clip.evaluation import Row, checkpoint_revision, plot_accuracy, weights_revision
from robust_clip.evaluation.records import write_json
from robust_clip.evaluation.run_folder import differences
from robust_clip.hub import DataFacts, ModelFolder, Origin, read_cost, render_card
from robust_clip.hub.card import BASE_IDENTITY
from robust_clip.hub.cost import Cost, train_seconds
from robust_clip.hub.folder import shared_name
from robust_clip.hub.registry import CHECKPOINTS
from robust_clip.models import RobustCLIPModel
from robust_clip.models.adapters import RECORD_NAME
from robust_clip.objectives import OBJECTIVES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Told:
    """What a card says that no file of the folder knows.

    Args:
        title: Name of the model, as on the Hub.
        licence: Of the weights, as an identifier of the Hub.
        base_licence: Of the checkpoint that training started from.
        notes: A paragraph of Markdown.
        recipe: Text of the recipe with its comments, in place of `recipe.yaml` in the folder.
        changes: What the run changed of that recipe.
        metadata: Further entries of the metadata.
    """

    title: str
    licence: str | None = None
    base_licence: str | None = None
    notes: str | None = None
    recipe: str | None = None
    changes: Sequence[str] = ()
    metadata: Mapping[str, Any] | None = None


def write_card(
    folder: str | Path,
    told: Told,
    rows: Sequence[Row] = (),
    compared: Sequence[Row] = (),
    *,
    origin: Origin | None = None,
    plots: bool = True,
) -> ModelCard:
    """Write `README.md`, and plots of accuracy against epsilon, into a folder of weights.

    Args:
        folder: With the weights.
        told: What its files do not know.
        rows: Of these weights.
        compared: Of other models.
        origin: In place of what the folder's files say.
        plots: Whether to draw, where there are several epsilons and matplotlib is installed.

    Returns:
        The card that was written.

    Raises:
        ValueError: If the folder holds no weights, or as `render_card`.
    """
    drawn = draw_plots(folder, [*rows, *compared]) if plots else {}
    card = make_card(folder, told, rows, compared, origin=origin, plots=drawn)
    card.save(Path(folder) / "README.md")
    return card


def write_trainer_card(
    folder: Path,
    told: Told,
    rows: Sequence[Row],
    record: Mapping[str, Any],
    log: list[dict[str, Any]],
    *,
    plots: bool,
) -> None:
    """The card that the Trainer writes beside weights that it has just saved.

    An adapter's or prompts' folder has no `config.json` to hold the record of the training, so that gets a file. What
    the adapter's own `save_pretrained` put there to identify its base stays.
    """
    if not (folder / "config.json").is_file():
        saved = ModelFolder.read(folder)
        kept = {key: saved.record[key] for key in BASE_IDENTITY if key in saved.record}
        write_json(folder / RECORD_NAME, (kept if saved.kind == "adapter" else {}) | dict(record))
    found = ModelFolder.read(folder)
    try:
        cost = read_cost(folder, record.get("hardware"))
    except ValueError as error:  # such as emissions that are just being written: no reason to end a training
        logger.warning("%s", error)
        cost = Cost(hardware=record.get("hardware"))
    cost = replace(cost, seconds=train_seconds(log) or cost.seconds)
    origin = Origin(found.kind, found.base_model, found.base_revision, record=record, cost=cost)
    write_card(folder, told, rows, origin=origin, plots=plots)


def base_on_record(name_or_path: str | None) -> dict[str, str]:
    """What a record of training says of the checkpoint that it began with; nothing of a folder on somebody's disk."""
    base = shared_name(name_or_path) if name_or_path else None
    return {"base": base} if base else {}


def make_card(
    folder: str | Path,
    told: Told,
    rows: Sequence[Row] = (),
    compared: Sequence[Row] = (),
    *,
    origin: Origin | None = None,
    plots: Mapping[str, str] | None = None,
) -> ModelCard:
    """The card that `write_card` writes; `plots` are what is drawn, and the file beside it."""
    origin = origin or origin_of(folder)
    recipe = Path(folder) / "recipe.yaml"
    if told.recipe or recipe.is_file():
        text = told.recipe or recipe.read_text(encoding="utf-8")
        origin = replace(origin, recipe=text, changes=tuple(told.changes))
    return render_card(
        told.title,
        replace(origin, base_licence=told.base_licence or _published_licence(origin.base_model)),
        rows=rows,
        compared=compared,
        papers=papers_of(origin.record, rows),
        datasets={name: DataFacts(row.hub_id, row.licence) for name, row in DATASETS.items()},
        plots=plots,
        licence=told.licence,
        notes=told.notes,
        metadata=told.metadata,
    )


def _published_licence(base: str | None) -> str | None:
    known = CHECKPOINTS.get(base) if base else None
    return known.licence if known and known.licence != "unknown" else None


def origin_of(folder: str | Path) -> Origin:
    """What the files of a folder say of its weights.

    Raises:
        ValueError: If it holds none, or a file in it is damaged.
    """
    found = ModelFolder.read(folder)
    cost = read_cost(folder, found.record.get("hardware"))
    return Origin(found.kind, found.base_model, found.base_revision, record=found.record, cost=cost)


def papers_of(record: Mapping[str, Any], rows: Sequence[Row]) -> list[Any]:
    """Those of the objective and of every attack, in training and in measuring, that are known by name."""
    registered: list[Any] = [*OBJECTIVES.values(), *ATTACKS.values(), *TEXT_ATTACKS.values()]
    papers = {known.__name__: known.paper for known in registered if hasattr(known, "paper")}
    used = [record.get("objective"), record.get("attack"), record.get("text attack")]
    used += [attack["attack"] for row in rows for attack in row.protocol["attacks"]]
    return list(dict.fromkeys(papers[name] for name in used if name in papers))


def rows_of_folder(folder: str | Path, rows: Sequence[Row], title: str) -> tuple[list[Row], list[Row]]:
    """Rows of the weights in a folder, and rows of others.

    A row belongs to the weights if their digest, on disk or in memory, is its revision. A row that was measured after
    a push has a commit for that, and belongs to them if it has their title. Digests in memory of adapters and prompts
    cover the base too; there the folder's own name decides.

    Raises:
        ValueError: If the weights were run in several ways.
    """
    path = Path(folder)
    found = ModelFolder.read(path)
    digests = set()
    if found.kind in ("model", "prompted"):
        digests.add(checkpoint_revision(str(path), None))  # type: ignore[arg-type]  # the files are there
    in_memory = any(row.model["revision"].startswith("memory-") for row in rows)
    if in_memory and found.kind == "model":
        digests.add(weights_revision(RobustCLIPModel.from_pretrained(path)))

    def ours(row: Row) -> bool:
        name, revision = row.model["id"], row.model["revision"]
        if revision in digests:
            return True
        if revision.startswith("memory-"):
            return found.kind != "model" and name == path.resolve().name
        return name == title and ":" not in revision

    own = [row for row in rows if ours(row)]
    told = [row.model["settings"] for row in own if "settings" in row.model]  # which older rows lack
    if unlike := "; ".join(dict.fromkeys(leaf for each in told for leaf in differences(told[0], each, "settings"))):
        raise ValueError(f"{path} has rows of its weights run in two ways, whose {unlike}; leave those of one out")
    return own, [row for row in rows if not ours(row)]


def draw_plots(folder: str | Path, rows: Sequence[Row]) -> dict[str, str]:
    """Accuracy against epsilon, a file for each data set and protocol with several epsilons; none without matplotlib.

    Returns:
        What is drawn, and the file's name.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.protocol["threat_model"]:
            name = f"{row.protocol['name']}-v{row.protocol['version']}-{row.protocol['threat_model']['norm']}"
            groups.setdefault((f"{row.dataset['name']}-{row.dataset['split']}", name), []).append(row)
    drawn = {}
    for (dataset, protocol), some in groups.items():
        if len({row.threat_model for row in some}) < 2:
            continue
        try:
            figure = plot_accuracy(some)
        except ImportError:
            return {}
        file = "accuracy-" + "".join(c if c.isalnum() or c in "-_." else "_" for c in f"{dataset}-{protocol}") + ".png"
        figure.set_size_inches(3.6, 2.7)  # two beside each other in the column of a card
        figure.axes[0].title.set_fontsize(9)
        figure.savefig(Path(folder) / file, dpi=100)
        drawn[f"Accuracy against epsilon on {dataset.replace('-', ' ')}, {protocol}"] = file
    return drawn
