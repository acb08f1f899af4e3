"""Measuring a model by a protocol, on any number of processes, with records that survive a kill."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, tqdm
from torch.utils.data import DataLoader, Subset

from robust_clip.attacks.base import eval_mode
from robust_clip.data import ImageDataset, PixelCollator, templates_for
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier, embed_classes

from .cascade import Candidate, Cascade, numerics
from .processes import on_main, process_state
from .protocol import Protocol
from .records import Row, Sample
from .revision import weights_revision
from .store import Journal, RecordStore


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

    Returns:
        The row of results.

    Raises:
        ValueError: If the data set has no classes, the weights have not the precision of the protocol, there are
            records that cannot be gone on from, or an image cannot be read.
        FloatingPointError: If logits or gradients are not finite.
    """
    collator = PixelCollator(model.image_size, protocol.resolution, on_bad_image)
    names, templates = _prompts(dataset, protocol)
    identity = {
        "model": {"id": model_id or _readable_id(model), "revision": revision or weights_revision(model)},
        "dataset": _describe(dataset, names, templates),
        "protocol": protocol.as_dict(),
        "threat_model": str(protocol.threat_model) if protocol.threat_model else None,
        "seed": seed,
    }
    store = RecordStore(records_dir, dataset.name, dataset.split, protocol) if records_dir is not None else None
    row, done, seconds = on_main(partial(_open, store, identity, resume))
    if row:
        return row
    journal = Journal(store, part_size=batch_size)
    mine = _share(protocol.choose(len(dataset), seed), done)
    images = _load(Subset(dataset, mine), collator, batch_size, num_workers)
    with eval_mode(model), tqdm(total=len(mine), desc=f"{dataset.name} {protocol.folder}", unit="image") as bar:
        classifier = _classifier(model, tokenizer, names, templates, protocol)
        for samples in _through(Cascade(classifier, protocol, seed, batch_size, model.device), images):
            journal.add(samples)
            bar.update(len(samples))
    journal.flush()
    samples = sorted(done + gather_object(journal.samples), key=lambda sample: sample.index)
    return on_main(partial(_close, store, identity, samples, seconds + sum(gather_object([journal.seconds]))))


def _load(
    images: Subset[dict[str, Any]], collator: PixelCollator, batch_size: int, num_workers: int
) -> Iterable[list[dict[str, Any]]]:
    loader: Iterable[list[dict[str, Any]]] = DataLoader(
        images, batch_size, collate_fn=partial(_one_by_one, collator), num_workers=num_workers
    )
    return loader


def _through(cascade: Cascade, images: Iterable[list[dict[str, Any]]]) -> Iterator[list[Sample]]:
    """Samples as they come through the cascade, and those that could not be read."""
    for singles in images:
        unreadable = [Sample(index) for single in singles for index in single["skipped"]]
        candidates = [
            Candidate(pixels, int(label), Sample(int(index), int(label)))
            for single in singles
            for pixels, label, index in zip(single["pixels"], single["labels"], single["index"], strict=True)
        ]
        yield unreadable + cascade.feed(candidates)
    yield cascade.drain()


def _one_by_one(collator: PixelCollator, examples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Collate each image by itself, since on the native grid their sizes may differ."""
    return [collator([example]) for example in examples]


def _classifier(
    model: RobustCLIPModel, tokenizer: Any, names: Sequence[str], templates: Sequence[str], protocol: Protocol
) -> ZeroShotClassifier:
    if protocol.precision == "fp32" and model.dtype != torch.float32:
        raise ValueError(f"protocol {protocol.name!r} asks for fp32, the weights are {model.dtype}: use model.float()")
    with numerics(protocol.precision, model.device.type):
        class_embeds = embed_classes(model, tokenizer, names, templates)
    return ZeroShotClassifier(model, class_embeds, batch_multiple=8)


def _prompts(dataset: ImageDataset, protocol: Protocol) -> tuple[list[str], list[str]]:
    """Class names and templates."""
    if dataset.class_names is None:
        raise ValueError(f"{dataset.name} has captions, not classes, so there is no accuracy to measure")
    templates = list(dataset.templates)
    if protocol.templates == "single":
        templates = templates[:1]
    elif len(templates) == 1:
        templates = list(templates_for(dataset.name, "ensemble"))
    return list(dataset.class_names), templates


def _describe(dataset: ImageDataset, names: Sequence[str], templates: Sequence[str]) -> dict[str, Any]:
    prompts = hashlib.sha256("\n".join([*templates, *names]).encode()).hexdigest()
    return {
        "name": dataset.name,
        "split": dataset.split,
        "revision": dataset.revision,
        "templates": list(templates),
        "prompts": f"sha256:{prompts}",
    }


def _readable_id(model: RobustCLIPModel) -> str:
    """Hub id, or the last part of a directory: where it stood on somebody's disk is nobody's business."""
    name = str(model.name_or_path or "unnamed")
    return Path(name).resolve().name if Path(name).is_dir() else name


def _share(chosen: Sequence[int], done: Sequence[Sample]) -> list[int]:
    """This process's share of the images that are left."""
    finished = {sample.index for sample in done}
    left = [index for index in chosen if index not in finished]
    state = process_state()
    return left[state.process_index :: state.num_processes]


def _open(store: RecordStore | None, identity: dict[str, Any], resume: bool) -> tuple[Row | None, list[Sample], float]:
    """A finished row if there is one, or the samples of an interrupted run and the seconds they took."""
    if store is None:
        return None, [], 0.0
    row = store.begin(identity, resume)
    return (row, [], 0.0) if row else (None, *store.read_parts())


def _close(store: RecordStore | None, identity: dict[str, Any], samples: Sequence[Sample], seconds: float) -> Row:
    """The row of all samples, written if there is a store."""
    row = Row.measured(identity, samples, seconds)
    if store:
        store.finish(row, samples)
    return row
