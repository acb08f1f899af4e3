"""Measured rows as a card tells them: lines of a table, a model-index, findings, protocols."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult

from robust_clip.evaluation.records import Row, percent


def eval_results(rows: Sequence[Row], hub_ids: Mapping[str, str]) -> list[EvalResult]:
    """What a `model-index` holds; each clean accuracy once, since rows at several epsilons repeat it.

    Args:
        rows: Of one model.
        hub_ids: Repositories of data sets, by the names in the rows.
    """
    found: dict[tuple[str, str, str], EvalResult] = {}
    for row in rows:
        name, split, protocol = row.dataset["name"], row.dataset["split"], row.protocol
        seen = f"n={row.n}, {protocol['templates']} templates, seed {row.seed}"
        attacked = f"{protocol['name']} v{protocol['version']}, {row.threat_model or 'no image attack'}, {seen}"
        clean, robust = f"clean accuracy ({seen})", f"robust accuracy ({attacked})"
        for told, value in ((clean, row.clean_accuracy), (robust, row.robust_accuracy)):
            if value is None:
                continue
            found[name, split, told] = EvalResult(
                task_type="zero-shot-image-classification",
                dataset_type=hub_ids.get(name, name),
                dataset_name=name,
                dataset_split=split,
                metric_type="_".join(told.split()[:2]),
                metric_name=told,
                metric_value=round(value, 4),
            )
    return list(found.values())


def accuracy_table(rows: Sequence[Row], with_models: bool) -> list[list[str]]:
    """Header, rule and lines: one for each data set and protocol, with a column for each threat model.

    A robust accuracy that has a finding is marked.

    Args:
        rows: Of one model or, `with_models`, of several.
        with_models: Whether the first column tells the model.
    """
    columns = sorted({(len(name := _threat(row)), name) for row in rows if row.robust_accuracy is not None})
    threats = [name for _, name in columns]
    lines: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        protocol = f"{row.protocol['name']} v{row.protocol['version']}, {row.protocol['resolution']} grid"
        place = (row.dataset["name"], row.dataset["split"], str(row.n), f"{protocol}, seed {row.seed}")
        lines.setdefault((row.model["id"], *map(_cell, place)), {})[_threat(row)] = row
    first = 0 if with_models else 1
    header = ["model", "data set", "split", "images", "protocol", "clean"] + [f"robust, {name}" for name in threats]
    table = [header[first:], ["---"] * len(header[first:])]
    for cells, found in lines.items():
        clean = next(iter(found.values()))
        robust = [_robust(found[threat]) if threat in found else "" for threat in threats]
        table.append([*cells[first:], percent(clean.clean_accuracy, clean.clean_interval, missing=""), *robust])
    return table


def _threat(row: Row) -> str:
    return row.threat_model or "no attack on images"


def _robust(row: Row) -> str:
    doubt = " (!)" if row.checks or row.substituted or row.skipped else ""
    return percent(row.robust_accuracy, row.robust_interval, missing="not attacked") + doubt


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def findings(rows: Iterable[Row]) -> Iterator[str]:
    """What a reader must know before believing a row."""
    for row in rows:
        where = f"{row.dataset['name']}, {row.protocol['name']}, {row.threat_model or 'no image attack'}"
        for kind, texts in (("check failed", row.checks), ("substituted", row.substituted)):
            yield from (f"{where}: {kind}: {text}" for text in texts)
        if row.skipped:
            yield f"{where}: {row.skipped} images could not be read and count in no number"


def describe(protocol: Mapping[str, Any]) -> str:
    """A protocol without its epsilon: what its attacks are, how it is run, and its source."""
    attacks = [f"{_call(attack)} on {attack['loss']}" for attack in protocol["attacks"]]
    attacks += [f"{_call(protocol['text_attack'])} on class prompts"] if protocol.get("text_attack") else []
    how = f"{protocol['resolution']} grid, {protocol['templates']} templates, {protocol['precision']}"
    name = f"**{protocol['name']} v{protocol['version']}**"
    return f"{name}: {', then '.join(attacks) or 'no attack'}; {how}. Source: {protocol['source']}."


def _call(attack: Mapping[str, Any]) -> str:
    settings = [f"{name}={value}" for name, value in attack["parameters"].items() if value is not None]
    # Such as the alphabet of an attack on characters.
    return f"{attack['attack']}({', '.join(text if len(text) <= 60 else text[:57] + '...' for text in settings)})"


def library_text(rows: Sequence[Row]) -> str:
    """Versions of the libraries that the rows were measured with."""
    found: dict[str, set[str]] = {}
    for row in rows:
        for library, version in row.versions.items():
            found.setdefault(library, set()).add(version)
    return ", ".join(f"{library} {' and '.join(sorted(versions))}" for library, versions in found.items())


def revisions(rows: Sequence[Row]) -> list[str]:
    """What identifies the weights that were measured, and how others can tell that theirs are the same."""
    return [f"revision `{name}`, {_means(name)}" for name in dict.fromkeys(row.model["revision"] for row in rows)]


def _means(revision: str) -> str:
    """What a revision is, see `robust_clip.evaluation.checkpoint_revision`.

    >>> _means("0123abc")
    'the commit on the Hub'
    """
    if revision.startswith("memory-sha256:"):
        return "a digest of the loaded tensors (`robust_clip.evaluation.weights_revision`), which no file has"
    if revision.startswith("sha256:"):
        return "which `sha256sum` prints for the weights file (of several files: a digest of their digests)"
    return "the commit on the Hub"
