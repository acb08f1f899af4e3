"""Measuring retrieval: whether images find their captions and captions their images, clean and attacked."""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import tqdm
from torch import Tensor

from robust_clip.attacks.base import eval_mode
from robust_clip.data import ImageDataset, PixelCollator
from robust_clip.models import RobustCLIPModel
from robust_clip.models.zero_shot import warn_of_cut_texts

from .bench import numerics, require_batch_size
from .processes import process_state
from .recall import retrieval_ranks
from .retrieval_protocol import Mode, RetrievalProtocol
from .retrieval_records import RetrievalRow, RetrievalStore
from .retrieval_search import TOGETHER, Attacked, Pair, PairSearch
from .revision import describe_model

logger = logging.getLogger(__name__)

# Modes in which images, and in which captions, are attacked.
_IMAGES, _CAPTIONS = ("images", "both"), ("captions", "both")


def evaluate_retrieval(
    model: RobustCLIPModel,
    tokenizer: Any,
    dataset: ImageDataset,
    protocol: RetrievalProtocol,
    *,
    batch_size: int = TOGETHER,
    records_dir: str | Path | None = None,
    resume: bool = False,
    revision: str | None = None,
    model_id: str | None = None,
) -> RetrievalRow:
    """Measure recall at 1, 5 and 10 from images to captions and from captions to images.

    Images are queries against all captions that are measured, and captions against all images. Which side is attacked
    and what stays clean is told by the modes of `RetrievalProtocol`; how several captions of an image and ties are
    counted, by `retrieval_ranks`. Recall grows with a smaller gallery: compare only numbers of as many images and
    captions. Intervals take queries as independent, which the captions of one image are not quite.

    On a CPU the numbers do not depend on the batch size or on interruptions. It runs in one process.

    Args:
        model: On the device to use, in fp32; put into eval mode meanwhile, otherwise left as it is.
        tokenizer: The tokenizer of the model.
        dataset: Images with captions.
        protocol: What is measured and how.
        batch_size: Most images in one forward pass. Pairs are attacked 32 at a time, so more changes nothing.
        records_dir: Folder for the records of this model; `None` keeps nothing on disk.
        resume: Go on from records that are there already, or take the finished row.
        revision: Identifies the weights, see `checkpoint_revision`; by default `weights_revision(model)`.
        model_id: What the row calls the model; by default where it was loaded from.

    Returns:
        The row of recalls.

    Raises:
        ValueError: If the data set has no captions or too few images, the weights or the batch size are not as above,
            there are several processes, there are records that cannot be gone on from, or an image cannot be read.
        FloatingPointError: If features, scores or gradients are not finite.
    """
    pairs = choose_pairs(dataset, protocol)
    _check(model, batch_size)
    protocol.require_packages()
    texts = [caption for pair in pairs for caption in pair.captions]
    identity = {
        "model": describe_model(model, tokenizer, model_id, revision),
        "dataset": _describe(dataset, pairs),
        "protocol": protocol.as_dict(),
        "attack": protocol.attack_name,
        "threat_model": str(protocol.threat_model) if protocol.threat_model else None,
        "seed": protocol.seed,
        "n_images": len(pairs),
        "n_captions": len(texts),
        "truncated": warn_of_cut_texts(tokenizer, texts, "captions"),
    }
    store = RetrievalStore(records_dir, dataset.name, dataset.split, protocol) if records_dir is not None else None
    if store and (row := store.begin(identity, resume)):
        logger.info("%s is measured already", store.folder)
        return row
    start = time.perf_counter()
    collator = PixelCollator(model.image_size, protocol.resolution)
    load = partial(_load, dataset, collator)
    # Inference tensors cannot take part in the gradient of an attack.
    with torch.inference_mode(False), torch.no_grad(), eval_mode(model):  # noqa: SIM117 - one line would be too long
        with numerics(protocol.precision, model.device.type):
            search = PairSearch(model, tokenizer, pairs, protocol, load, batch_size)
            images, captions, seconds = _attack_all(search, store, f"{dataset.name} {protocol.folder}")
            ranks = _rank(search, images, captions)
    row = RetrievalRow.measured(identity, ranks, seconds + time.perf_counter() - start)
    if store:
        store.finish(row, _table(pairs, captions, ranks))
    return row


def choose_pairs(dataset: ImageDataset, protocol: RetrievalProtocol) -> list[Pair]:
    """The images that a protocol measures, in the order of their rows, with as many captions as it takes.

    Raises:
        ValueError: If there are no captions, fewer than two images, or more captions of an image than the attack can
            deal with.
    """
    if dataset.captions is None:
        raise ValueError(f"{dataset.name} has no captions, so there is nothing to retrieve; give a captioned data set")
    most = protocol.captions_per_image
    pairs = [Pair(row, dataset.captions[row][:most]) for row in protocol.choose(len(dataset))]
    if len(pairs) < 2:
        raise ValueError(f"retrieval needs at least 2 images, or every query is right; got {len(pairs)}")
    several = next((pair for pair in pairs if len(pair.captions) > 1), None)
    if several and protocol.one_caption_each:
        raise ValueError(
            f"{dataset.name} row {several.row} has {len(several.captions)} captions, and co_attack takes one for each "
            "image: set captions_per_image to 1, or use sga, which takes sets"
        )
    return pairs


def _attack_all(
    search: PairSearch, store: RetrievalStore | None, title: str
) -> tuple[Tensor | None, dict[Mode, list[list[str]]], float]:
    """Features of attacked images, attacked captions by mode, and the seconds that earlier runs spent."""
    modes, stages = search.protocol.modes, search.protocol.stages
    images: Tensor | None = None
    captions: dict[Mode, list[list[str]]] = {}
    seconds = 0.0
    with tqdm(total=len(search.pairs) * len(stages), desc=title, unit="pairs", disable=not stages) as progress:
        for stage in stages:
            features: list[Tensor] = []
            texts: list[list[str]] = []
            for chunk in torch.arange(len(search.pairs)).split(TOGETHER):
                attacked, spent = _attack_or_read(search, store, stage, chunk.tolist())
                features += [search.embed_images(attacked.images)] if attacked.images else []
                texts += attacked.captions
                seconds += spent
                progress.update(len(chunk))
            if features:
                images = torch.cat(features)
                search.show_images(images)
            captions |= {stage: texts} if texts else {}
    # A mode without a search of its own has what was found for the other.
    only = next(iter(captions.values()), [])
    return images, {mode: captions.get(mode, only) for mode in modes if only and mode in _CAPTIONS}, seconds


def _attack_or_read(
    search: PairSearch, store: RetrievalStore | None, stage: Mode, positions: list[int]
) -> tuple[Attacked, float]:
    """What a stage made of some pairs, now or in an earlier run, and the seconds that the earlier run took."""
    if store and (kept := store.read(stage, positions[0])):
        search.remember(positions, kept[0])
        return kept
    start = time.perf_counter()
    attacked = search.attack(stage, positions)
    if store:
        store.write(stage, positions[0], attacked, time.perf_counter() - start)
    return attacked, 0.0


def _rank(
    search: PairSearch, images: Tensor | None, captions: dict[Mode, list[list[str]]]
) -> dict[Mode, dict[str, Tensor]]:
    """Ranks by mode and direction."""
    found: dict[Mode, dict[str, Tensor]] = {}
    for mode in search.protocol.modes:
        queries = images if images is not None and mode in _IMAGES else search.clean_images
        texts = search.embed_captions(captions[mode]) if mode in captions else search.clean_captions
        found[mode] = retrieval_ranks(queries, texts, search.image_of)
    return found


def _table(
    pairs: Sequence[Pair], captions: dict[Mode, list[list[str]]], ranks: dict[Mode, dict[str, Tensor]]
) -> list[dict[str, Any]]:
    """One line for each image: its captions, and by mode what became of them, its rank and theirs."""
    lines = []
    first = 0
    for position, pair in enumerate(pairs):
        last = first + len(pair.captions)
        line: dict[str, Any] = {"index": pair.row, "captions": list(pair.captions)}
        for mode, ways in ranks.items():
            if mode in captions:
                line[f"{mode}_attacked_captions"] = captions[mode][position]
            line[f"{mode}_image_to_text"] = int(ways["image_to_text"][position])
            line[f"{mode}_text_to_image"] = ways["text_to_image"][first:last].tolist()
        lines.append(line)
        first = last
    return lines


def _load(dataset: ImageDataset, collator: PixelCollator, pair: Pair) -> Tensor:
    pixels: Tensor = collator([dataset[pair.row]])["pixels"][0]
    return pixels


def _check(model: RobustCLIPModel, batch_size: int) -> None:
    if model.dtype != torch.float32:
        raise ValueError(f"retrieval is measured with weights in fp32, these are {model.dtype}: use model.float()")
    require_batch_size(batch_size)
    if process_state().num_processes > 1:
        raise ValueError("retrieval is measured in one process: start it without accelerate launch")


def _describe(dataset: ImageDataset, pairs: Sequence[Pair]) -> dict[str, str]:
    captions = hashlib.sha256(json.dumps([pair.captions for pair in pairs]).encode()).hexdigest()
    return {
        "name": dataset.name,
        "split": dataset.split,
        "revision": dataset.revision,
        "captions": f"sha256:{captions}",
    }
