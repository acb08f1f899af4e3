"""Model cards, rendered from measured rows and from what is on record of the training, and from nothing else."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import ModelCard, ModelCardData

from robust_clip.evaluation.records import Row, duration
from robust_clip.models.interpolation import SHARE
from robust_clip.models.packaged import PACKAGED
from robust_clip.paper import Paper

from .card_data import READ, DataFacts, data_licences, data_text, is_hub_id, trained_from_hub
from .card_rows import accuracy_table, describe, eval_results, findings, library_text, revisions
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
_TOLD_ELSEWHERE = ("base", *BASE_IDENTITY, "hardware", READ)
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
    record |= {"data": data_text(origin.record)} if "data" in record else {}
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
        comes_along=title in PACKAGED,
        trained=record.get("threat model"),
        summary=_summary(origin, measured=bool(rows)),
        notes=notes,
        fence="~" * (3 + max(map(len, re.findall(r"~+", origin.recipe or "")), default=0)),
        table=accuracy_table(measured, with_models=bool(compared)) if rows else [],
        threats=sorted({row.threat_model for row in rows if row.threat_model}),
        protocols=list(dict.fromkeys(describe(row.protocol) for row in measured)),
        versions=library_text(measured),
        findings=list(findings(measured)),
        revisions=revisions(rows),
        plots=dict(plots or {}),
        licence=licence,
        data_licences=data_licences(origin.record, [row.dataset["name"] for row in rows], facts),
        seconds_measuring=duration(sum(row.seconds for row in measured)),
        seconds_training=None if seconds is None else duration(seconds),
        citations=[paper.bibtex for paper in dict.fromkeys(papers)],
    )


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
    trained_on = list(dict.fromkeys(trained_from_hub(origin.record).values()))
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


def _summary(origin: Origin, measured: bool) -> str:
    """What the weights are, and how far that is known; how they were trained, and nothing of what came of it."""
    noun, threat = _NOUNS[origin.kind], origin.record.get("threat model")
    share = origin.record.get(SHARE)
    if not origin.record:
        told = f"{noun}; how that was trained is not recorded, so take it for not adversarially trained."
    elif not threat:
        told = f"{noun}, not adversarially trained."
    elif share is not None:
        told = f"{noun}, {1 - share:g} original weights and {share:g} weights adversarially trained against {threat}."
    else:
        told = f"{noun}, adversarially trained against {threat}."
    if measured:
        return f"{told} Written by `robust_clip`; every accuracy below comes from a recorded measurement."
    return f"{told} Not measured yet: how accurate and how robust it is, is not known. Written by `robust_clip`."
