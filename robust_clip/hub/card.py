"""Model cards, rendered from measured rows and from what is on record of the training, and from nothing else."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import ModelCard, ModelCardData

from robust_clip.evaluation.records import Row
from robust_clip.models.packaged import PACKAGED
from robust_clip.paper import Paper

from .card_rows import accuracy_table, describe, eval_results, findings, library_text
from .cost import Cost

TEMPLATE = Path(__file__).with_name("card_template.md")
# What a folder holds: a CLIP that stock transformers loads, a CLIP with prompts, a peft adapter, or prompts alone.
Kind = Literal["model", "prompted", "adapter", "prompts"]
_NOUNS = {
    "model": "A CLIP model",
    "prompted": "A CLIP model with learned prompts",
    "adapter": "An adapter for a CLIP model",
    "prompts": "Learned prompts for a CLIP model",
}
_LIBRARIES = {"model": "transformers", "prompted": "robust-clip", "adapter": "peft", "prompts": "robust-clip"}
# What a record says of the base besides its name.
BASE_IDENTITY = ("base weights", "base revision")
_TOLD_ELSEWHERE = ("base", *BASE_IDENTITY, "hardware")
_FROM_ELSEWHERE = {"finetuned_from", "tasks", "dataset", "dataset_tags", "dataset_args", "base_model", "eval_results"}


@dataclass(frozen=True)
class Origin:
    """What weights are and where they come from.

    Args:
        kind: What has to be loaded, and how.
        base_model: Checkpoint that training started from, or that an adapter or prompts belong to.
        base_revision: Its commit or digest.
        base_licence: Its licence, as stated by its source.
        record: What the Trainer put on record, name to value; empty if that is not known.
        recipe: Text of the recipe, with the comments that cite its values.
        changes: What the run changed of that recipe, line by line.
        cost: Of the training.
    """

    kind: Kind = "model"
    base_model: str | None = None
    base_revision: str | None = None
    base_licence: str | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    changes: Sequence[str] = ()
    cost: Cost = Cost()


@dataclass(frozen=True)
class DataFacts:
    """What a card says of a data set besides its name.

    Args:
        hub_id: Repository on the Hub, `None` if there is none or it is not known.
        licence: As stated by the source.
    """

    hub_id: str | None = None
    licence: str = "unknown"


def render_card(
    title: str,
    origin: Origin = Origin(),  # noqa: B008  # frozen
    *,
    rows: Sequence[Row] = (),
    compared: Sequence[Row] = (),
    papers: Sequence[Paper] = (),
    datasets: Mapping[str, DataFacts] | None = None,
    plots: Mapping[str, str] | None = None,
    licence: str | None = None,
    notes: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> ModelCard:
    """A model card whose every number comes from `rows`.

    Args:
        title: Name of the model, as on the Hub; its code blocks load it by that.
        origin: What the weights are and where they come from.
        rows: Results of evaluations of these weights.
        compared: Results of other models, such as the one before training: in the table, and nowhere else.
        papers: To be cited.
        datasets: Facts on data sets that the rows and the record name.
        plots: What is drawn, and the name of the file beside the card.
        licence: Of the weights, as an identifier of the Hub such as `apache-2.0`.
        notes: A paragraph on what the model is for and what stands behind it.
        metadata: Further entries of the metadata, such as `language`; `tags` are added to the card's own.

    Returns:
        A card with a `model-index` that the Hub parses.

    Raises:
        ValueError: If the licence cannot be an identifier of the Hub, or the metadata tell what the card takes from
            elsewhere.
    """
    facts = dict(datasets or {})
    record = {key: value for key, value in origin.record.items() if key not in _TOLD_ELSEWHERE}
    measured = [*rows, *compared]
    seconds = origin.cost.seconds
    return ModelCard.from_template(
        _metadata(title, origin, rows, facts, licence, dict(metadata or {})),
        template_path=str(TEMPLATE),
        title=title,
        origin=origin,
        record=record,
        base=origin.base_model or "BASE",
        packaged=origin.base_model in PACKAGED,
        trained=record.get("threat model"),
        summary=_summary(origin),
        notes=notes,
        fence="~" * (3 + max(map(len, re.findall(r"~+", origin.recipe or "")), default=0)),
        table=accuracy_table(measured, with_models=bool(compared)) if rows else [],
        threats=sorted({row.threat_model for row in rows if row.threat_model}),
        protocols=list(dict.fromkeys(describe(row.protocol) for row in measured)),
        versions=library_text(measured),
        findings=list(findings(measured)),
        plots=dict(plots or {}),
        licence=licence,
        data_licences=_data_licences(trained_data(record), [row.dataset["name"] for row in rows], facts),
        seconds_measuring=duration(sum(row.seconds for row in measured)),
        seconds_training=None if seconds is None else duration(seconds),
        citations=[paper.bibtex for paper in dict.fromkeys(papers)],
    )


def trained_data(record: Mapping[str, Any]) -> list[str]:
    """Names of the data sets that a record of training names, without their splits.

    >>> trained_data({"data": "cifar10/train, tiny_imagenet/train"})
    ['cifar10', 'tiny_imagenet']
    """
    return [part.rpartition("/")[0] for part in str(record.get("data", "")).split(", ") if "/" in part]


def duration(seconds: float) -> str:
    """Time as people say it.

    >>> duration(42.3), duration(100), duration(4000)
    ('42 seconds', '1.7 minutes', '1.1 hours')
    """
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _metadata(
    title: str,
    origin: Origin,
    rows: Sequence[Row],
    facts: Mapping[str, DataFacts],
    licence: str | None,
    more: dict[str, Any],
) -> ModelCardData:
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise ValueError(
            f"A licence is an identifier of the Hub such as apache-2.0, mit or cc-by-nc-4.0, got {licence!r}; "
            "give other for one that is not listed, and say in the notes which."
        )
    if taken := sorted(more.keys() & _FROM_ELSEWHERE):
        raise ValueError(f"The card takes {', '.join(taken)} from rows and from what is on record; leave it out.")
    own_tags = more.pop("tags", ())
    on_hub = origin.base_model if is_hub_id(origin.base_model) else None
    hub_ids = {name: known.hub_id for name, known in facts.items() if known.hub_id and is_hub_id(known.hub_id)}
    trained_on = [hub_ids[name] for name in trained_data(origin.record) if name in hub_ids]
    tags = ["robust-clip", "clip", "adversarial-robustness", *([own_tags] if isinstance(own_tags, str) else own_tags)]
    relation = {"model": "finetune", "prompted": "finetune"}.get(origin.kind, "adapter") if on_hub else None
    emissions = origin.cost.emissions
    return ModelCardData(
        model_name=title.split("/")[-1],
        base_model=on_hub,
        base_model_relation=relation,
        license=licence,
        library_name=_LIBRARIES[origin.kind],
        pipeline_tag="zero-shot-image-classification",
        tags=list(dict.fromkeys(tags)),
        datasets=trained_on or None,
        co2_eq_emissions=emissions.as_metadata() if emissions else None,
        eval_results=eval_results(rows, hub_ids) or None,
        **more,
    )


def is_hub_id(name: str | None) -> bool:
    """Whether a name may be that of a repository on the Hub, `owner/name`.

    >>> is_hub_id("openai/clip-vit-base-patch32"), is_hub_id("nano_clip"), is_hub_id("/home/me/out")
    (True, False, False)
    """
    return name is not None and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None


def _summary(origin: Origin) -> str:
    noun, threat = _NOUNS[origin.kind], origin.record.get("threat model")
    if not origin.record:
        return f"{noun}; how that was trained is not recorded, so take it for not adversarially trained."
    return f"{noun}, adversarially trained against {threat}." if threat else f"{noun}, not adversarially trained."


def _data_licences(trained: Sequence[str], measured: Sequence[str], facts: Mapping[str, DataFacts]) -> list[str]:
    """A line for each data set: what it was used for, and its licence."""
    lines = []
    for name in dict.fromkeys([*trained, *measured]):
        known = facts.get(name, DataFacts(name if is_hub_id(name) else None))
        uses = " and ".join(use for use, names in (("trained", trained), ("measured", measured)) if name in names)
        link = f"[{name}](https://huggingface.co/datasets/{known.hub_id})" if is_hub_id(known.hub_id) else name
        lines.append(f"{link} ({uses} on): {'none stated' if known.licence == 'unknown' else known.licence}")
    return lines
