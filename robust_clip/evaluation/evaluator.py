"""Measuring a model by a protocol, on any number of processes, with records that survive a kill."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Subset

from robust_clip.attacks.base import eval_mode
from robust_clip.data import ImageDataset, PixelCollator, templates_for
from robust_clip.models import RobustCLIPModel, class_templates

from . import defence_cost
from .adaptive import InnerProblemMaker
from .bench import Bench, compiled_tower, require_batch_size, set_up
from .cascade import Candidate, Cascade
from .checks import Probe, battery, checked_samples, quick_checks
from .gallery import Gallery
from .processes import Progress, on_main, process_state
from .protocol import Protocol
from .records import Row, Sample, latest, library_versions
from .revision import describe_model
from .sampling import choose_rows
from .store import Journal, RecordStore

logger = logging.getLogger(__name__)


def evaluate_robustness(
    model: RobustCLIPModel,
    tokenizer: Any,
    dataset: ImageDataset,
    protocol: Protocol,
    *,
    seed: int = 0,
    batch_size: int = 64,
    records_dir: str | Path | None = None,
    resume: bool = False,
    on_bad_image: str = "raise",
    num_workers: int = 0,
    revision: str | None = None,
    model_id: str | None = None,
    inner_problem: InnerProblemMaker | None = None,
    thorough: bool = False,
    examples: int = 0,
) -> Row:
    """Measure clean and robust zero-shot accuracy.

    The prediction for an image depends on the model, the protocol, the seed and the image's row in its split, and on
    a CPU not on the batch size, the number of processes or interruptions. Run under `accelerate launch`, each process
    takes its share of the images and every one returns the same row.

    Args:
        model: On the device to use; put into eval mode meanwhile, otherwise left as it is.
        tokenizer: The tokenizer of the model.
        dataset: Images with labels and class names.
        protocol: What is measured and how, see `get_protocol`.
        seed: Of the choice of samples and of the random starts.
        batch_size: Images in a batch.
        records_dir: Folder for the records of this model; `None` keeps nothing on disk.
        resume: Go on from records that are there already, or take the finished row.
        on_bad_image: `raise` stops at an image that cannot be read, `skip` counts it and leaves it out.
        num_workers: Processes that decode images, for each process that computes.
        revision: Identifies the weights, see `checkpoint_revision`; by default `weights_revision(model)`.
        model_id: What the row calls the model; by default where it was loaded from, which after training is its base.
        inner_problem: For a protocol whose attacks climb an objective: makes, of class names and templates, a
            function that gives what they see and climb, of clean pixels and labels.
        thorough: Whether the whole battery of sanity checks is run, which attacks a few images many times over; a
            short form is run wherever there are attacks. What they find stands in the row, also in a finished one.
        examples: Broken images, and attacked prompts, that are kept with the records, for reports to show.

    Returns:
        The row of results.

    Raises:
        ValueError: If the data set has no classes, the batch size is below 1, the weights have not the precision of
            the protocol, attacks climb an objective and there is none or the other way round, there are records that
            cannot be gone on from, or an image cannot be read.
        FloatingPointError: If logits or gradients are not finite.
    """
    require_batch_size(batch_size)
    names, templates = _prompts(model, dataset, protocol)
    _require_what_it_needs(protocol, inner_problem)
    fitted, substituted = protocol.fit_to_classes(len(names))
    chosen, otherwise = choose_rows(protocol, dataset, seed)
    measured = describe_model(model, tokenizer, model_id, revision)
    identity = {"model": measured, "dataset": _describe(dataset, names, templates), "seed": seed}
    identity |= _describe_protocol(protocol, fitted, substituted + otherwise)
    store = RecordStore(records_dir, dataset.name, dataset.split, protocol) if records_dir is not None else None
    row, known, seconds, unchecked = on_main(partial(_open, store, identity, resume))
    if row and not (thorough and unchecked and fitted.stages):
        return row
    collator = PixelCollator(model.image_size, protocol.resolution_for(dataset.source), on_bad_image)
    journal = Journal(store, part_size=batch_size)
    with eval_mode(model), compiled_tower(model, fitted.compiled):
        bench = set_up(model, tokenizer, names, templates, fitted, seed, inner_problem)
        findings, by_battery = _check(bench, dataset, collator, chosen, seed, batch_size, thorough)
        if row:
            return on_main(partial(_amend, store, row, findings, by_battery))
        mine = _share(chosen, known, len(fitted.stages))
        images = _load(Subset(dataset, mine), collator, batch_size, num_workers)
        cascade = Cascade(bench, seed, batch_size, _gallery(store, examples, names, bench))
        with Progress(len(mine), len(fitted.stages), f"{dataset.name} {protocol.folder}") as progress:
            for samples in _through(cascade, images, {sample.index: sample for sample in known}):
                journal.add(samples)
                progress.add(samples)
    journal.flush()
    samples = latest(known + gather_object(journal.samples))
    findings += checked_samples(fitted, samples, hardened=bool((model.config.robustness or {}).get("attack")))
    seconds += sum(gather_object([journal.seconds]))
    row = Row.measured(identity, samples, seconds, findings, defence_cost.measure(bench, batch_size))
    return on_main(partial(_close, store, row, samples, by_battery))


def _require_what_it_needs(protocol: Protocol, inner_problem: InnerProblemMaker | None) -> None:
    protocol.require_packages()
    if (protocol.objective is None) != (inner_problem is None):
        raise ValueError(
            f"protocol {protocol.name!r} climbs {protocol.objective or 'no objective'}: give the inner problem of an "
            "objective to a protocol whose attacks climb it, and to no other"
        )


def _load(
    images: Subset[dict[str, Any]], collator: PixelCollator, batch_size: int, num_workers: int
) -> Iterable[list[dict[str, Any]]]:
    loader: Iterable[list[dict[str, Any]]] = DataLoader(
        images, batch_size, collate_fn=partial(_one_by_one, collator), num_workers=num_workers
    )
    return loader


def _through(
    cascade: Cascade, images: Iterable[list[dict[str, Any]]], known: Mapping[int, Sample]
) -> Iterator[list[Sample]]:
    """States of samples as they come through the cascade, and those that could not be read."""
    for singles in images:
        unreadable = [Sample(index) for single in singles for index in single["skipped"]]
        candidates = [
            Candidate(pixels, int(label), known.get(int(index), Sample(int(index), int(label))))
            for single in singles
            for pixels, label, index in zip(single["pixels"], single["labels"], single["index"], strict=True)
        ]
        yield unreadable
        yield from cascade.feed(candidates)
    yield from cascade.drain()


def _one_by_one(collator: PixelCollator, examples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Collate each image by itself, since on the native grid their sizes may differ."""
    return [collator([example]) for example in examples]


def _prompts(model: RobustCLIPModel, dataset: ImageDataset, protocol: Protocol) -> tuple[list[str], list[str]]:
    """Class names and templates."""
    names = require_classes(dataset)
    templates = list(dataset.templates)
    if protocol.templates == "single":
        templates = templates[:1]
    elif protocol.templates == "clip":
        templates = list(templates_for(dataset.source, "clip"))
    elif len(templates) == 1:
        templates = list(templates_for(dataset.source, "ensemble"))
    return names, list(class_templates(model, templates))


def require_classes(dataset: ImageDataset) -> list[str]:
    """The class names of a data set.

    Raises:
        ValueError: If it has none, or but one.
    """
    if dataset.class_names is None:
        raise ValueError(f"{dataset.name} has captions, not classes, so there is no accuracy to measure")
    if len(dataset.class_names) < 2:
        raise ValueError(f"{dataset.name} has but the class {dataset.class_names[0]!r}, so every answer is right")
    return list(dataset.class_names)


def _describe(dataset: ImageDataset, names: Sequence[str], templates: Sequence[str]) -> dict[str, Any]:
    prompts = hashlib.sha256("\n".join([*templates, *names]).encode()).hexdigest()
    return {
        "name": dataset.name,
        "split": dataset.split,
        "revision": dataset.revision,
        "templates": list(templates),
        "prompts": f"sha256:{prompts}",
    }


def _describe_protocol(protocol: Protocol, fitted: Protocol, substituted: list[str]) -> dict[str, Any]:
    """What was asked for, and what is run for want of classes."""
    return {
        "protocol": protocol.as_dict(),
        "threat_model": str(protocol.threat_model) if protocol.threat_model else None,
        "substituted": substituted,
        "attacks": list(fitted.attack_names),
    }


def _share(chosen: Sequence[int], known: Sequence[Sample], attacks: int) -> Sequence[int]:
    """This process's share of the images that are left."""
    done = {sample.index for sample in known if sample.through(attacks)}
    left = [index for index in chosen if index not in done]
    state = process_state()
    return left[state.process_index :: state.num_processes]


def _open(
    store: RecordStore | None, identity: dict[str, Any], resume: bool
) -> tuple[Row | None, list[Sample], float, bool]:
    """A finished row, or the samples and seconds of an interrupted run; and whether the battery is yet to be run."""
    library_versions()  # reads the commit, which may be another one by the time that the row is written
    if store is None:
        return None, [], 0.0, True
    row = store.begin(identity, resume)
    if row:
        logger.info("%s is measured already", store.folder)
        return row, [], 0.0, not store.has_battery()
    return None, *store.read_parts(), True


def _close(store: RecordStore | None, row: Row, samples: Sequence[Sample], by_battery: Sequence[str] | None) -> Row:
    """The row, written if there is a store."""
    if store:
        store.finish(row, samples, by_battery)
    return row


def _amend(
    store: RecordStore | None, row: Row, findings: Sequence[str], by_battery: Sequence[str] | None
) -> Row:
    """A finished row with what the battery found, in the order of a row that was measured with it."""
    amended = replace(row, checks=[*findings, *(finding for finding in row.checks if finding not in findings)])
    if store and by_battery is not None:
        store.amend(amended, by_battery)
    return amended


def _gallery(store: RecordStore | None, examples: int, names: Sequence[str], bench: Bench) -> Gallery:
    """Where examples are kept: by the main process, with the attacked prompts in it."""
    gallery = Gallery(store.folder if store and process_state().is_main_process else None, examples, names)
    gallery.hang_texts(bench.prompts)
    return gallery


def _check(
    bench: Bench,
    dataset: ImageDataset,
    collator: PixelCollator,
    chosen: Sequence[int],
    seed: int,
    batch_size: int,
    thorough: bool,
) -> tuple[list[str], list[str] | None]:
    """What checks find on the first of the images, on every process the same, and which of it the battery found."""
    if not bench.protocol.stages:
        return [], None
    rows = chosen[: 32 if thorough else 8]
    singles = [single for row in rows if len((single := collator([dataset[row]]))["labels"])]
    singles = [single for single in singles if single["pixels"].shape == singles[0]["pixels"].shape]
    if not singles:
        return [], None
    names = ("pixels", "labels", "index")
    pixels, labels, indices = (torch.cat([single[name] for single in singles]) for name in names)
    probe = Probe(bench, pixels.to(bench.device), labels.to(bench.device), indices.tolist(), seed, batch_size)
    by_battery = battery(probe) if thorough else None
    findings = quick_checks(probe) + (by_battery or [])
    for finding in findings:
        logger.warning("%s: %s", dataset.name, finding)
    return findings, by_battery
