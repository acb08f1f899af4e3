"""`robust-clip evaluate`: clean and robust accuracy of a checkpoint, with 95 % intervals."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from robust_clip.data import load_image_dataset
from robust_clip.evaluation import (
    PROTOCOLS,
    RecordStore,
    Row,
    checkpoint_revision,
    evaluate_robustness,
    get_protocol,
    require_writable,
)
from robust_clip.evaluation.processes import process_state
from robust_clip.evaluation.records import percent
from robust_clip.models import load_checkpoint, packaged_checkpoint


def run(args: argparse.Namespace) -> int:
    """Evaluates every data set at every epsilon, after all that can be refused beforehand has been looked at."""
    protocols = [
        get_protocol(args.protocol, epsilon=epsilon, samples=args.samples) for epsilon in args.epsilon or [None]
    ]
    if args.records:
        require_writable(args.records)
    datasets = [load_image_dataset(name, args.split) for name in args.data]
    runs = [(dataset, protocol) for dataset in datasets for protocol in protocols]
    if args.records and not args.resume:
        for dataset, protocol in runs:
            RecordStore(args.records, dataset.name, dataset.split, protocol).require_new()
    state = process_state()
    loaded, processor = load_checkpoint(args.model)
    model: Any = loaded.to(state.device)
    revision = checkpoint_revision(packaged_checkpoint(args.model), model)
    rows = [
        evaluate_robustness(
            model,
            processor.tokenizer,
            dataset,
            protocol,
            seed=args.seed,
            batch_size=args.batch_size,
            records_dir=args.records,
            resume=args.resume,
            on_bad_image=args.on_bad_image,
            num_workers=args.num_workers,
            revision=revision,
        )
        for dataset, protocol in runs
    ]
    if state.is_main_process:
        print(json.dumps([asdict(row) for row in rows], indent=2) if args.format == "json" else format_table(rows))
    state.destroy_process_group()
    return 0


def format_table(rows: Sequence[Row]) -> str:
    """Rows as text: accuracies in percent, each with its interval."""
    header = ("data set", "split", "protocol", "threat model", "images", "skipped", "clean", "robust")
    cells = [header] + [
        (
            row.dataset["name"],
            row.dataset["split"],
            f"{row.protocol['name']} v{row.protocol['version']}",
            row.threat_model or "-",
            str(row.n),
            str(row.skipped),
            percent(row.clean_accuracy, row.clean_interval, missing="-", digits=2),
            percent(row.robust_accuracy, row.robust_interval, missing="-", digits=2),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    return "\n".join([f"{rows[0].model['id']} ({rows[0].model['revision']})", "", *lines])


def _commas(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure clean and robust accuracy",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="directory or Hub id of a CLIP checkpoint, or nano_clip")
    add("--data", required=True, type=_commas, help="names, Hub ids or paths of data sets, with commas between them")
    add("--split", default="test", help="split of every data set")
    add("--protocol", required=True, help=f"one of {', '.join(PROTOCOLS)}")
    add("--epsilon", type=_commas, help="radii in place of the protocol's, such as 1/255,2/255,4/255")
    add("--samples", type=int, help="images drawn from each split by the seed, in place of the protocol's number")
    add("--seed", type=int, default=0, help="of the choice of images and of random starts")
    add("--batch_size", type=int, default=64, help="images in a batch")
    add("--num_workers", type=int, default=0, help="processes that decode images")
    add("--records", help="folder for rows and samples of this model; nothing is kept without it")
    add("--on_bad_image", choices=("raise", "skip"), default="raise", help="what to do with an unreadable image")
    add("--resume", action="store_true", help="go on from the records that are there")
    add("--format", choices=("text", "json"), default="text", help="what to print")
    parser.set_defaults(run=run)
