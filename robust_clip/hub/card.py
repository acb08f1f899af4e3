"""Model cards, rendered from measured rows and from nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from robust_clip.evaluation.records import Row, percent
from robust_clip.paper import Paper

TEMPLATE = Path(__file__).with_name("card_template.md")


def render_card(
    title: str,
    *,
    rows: Sequence[Row] = (),
    training: Mapping[str, Any] | None = None,
    papers: Sequence[Paper] = (),
    base_model: str | None = None,
    licence: str | None = None,
    notes: str | None = None,
) -> ModelCard:
    """A model card whose every number comes from `rows`.

    Args:
        title: Name of the model, as on the Hub.
        rows: Results of evaluations of these weights.
        training: What the model was trained with, name to value; `None` if that is not known.
        papers: To be cited.
        base_model: Hub id of the checkpoint that training started from.
        licence: Of the weights, as an identifier of the Hub.
        notes: A paragraph on what the model is for and what stands behind it.

    Returns:
        A card with a `model-index` that the Hub parses.
    """
    data = ModelCardData(
        model_name=title.split("/")[-1],
        base_model=base_model,
        license=licence,
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["robust-clip", "clip", "adversarial-robustness"],
        eval_results=[result for row in rows for result in _results(row)] or None,
    )
    trained = "adversarially trained" if training and training.get("threat model") else "not adversarially trained"
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=title,
        summary=f"A CLIP model, {trained}, written by `robust_clip`.",
        notes=notes,
        training=training,
        rows=[_cells(row) for row in rows],
        citations=[paper.bibtex for paper in dict.fromkeys(papers)],
    )


def _results(row: Row) -> list[EvalResult]:
    measured = {"clean_accuracy": row.clean_accuracy, "robust_accuracy": row.robust_accuracy}
    attacked = f"{row.protocol['name']} v{row.protocol['version']}, {row.threat_model or 'no attack'}, n={row.n}"
    return [
        EvalResult(
            task_type="zero-shot-image-classification",
            dataset_type=row.dataset["name"],
            dataset_name=row.dataset["name"],
            dataset_split=row.dataset["split"],
            metric_type=name,
            metric_name=f"{name.replace('_', ' ')} ({attacked}, seed {row.seed})",
            metric_value=round(value, 4),
        )
        for name, value in measured.items()
        if value is not None
    ]


def _cells(row: Row) -> list[str]:
    protocol = f"{row.protocol['name']} v{row.protocol['version']}, {row.protocol['resolution']} grid, seed {row.seed}"
    clean = percent(row.clean_accuracy, row.clean_interval, missing="not attacked")
    robust = percent(row.robust_accuracy, row.robust_interval, missing="not attacked")
    return [row.dataset["name"], row.dataset["split"], str(row.n), protocol, row.threat_model or "none", clean, robust]
