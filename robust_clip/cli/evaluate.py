"""`robust-clip evaluate`: clean and robust accuracy of a checkpoint, with 95 % intervals."""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, get_args

from robust_clip.data import SUITES, load_image_datasets
from robust_clip.evaluation import (
    PRESETS,
    Protocol,
    RecordStore,
    Row,
    checkpoint_revision,
    defence_cost,
    evaluate_robustness,
    get_protocols,
    with_test_time_defence,
)
from robust_clip.evaluation.bench import require_batch_size
from robust_clip.evaluation.evaluator import require_classes
from robust_clip.evaluation.processes import process_state
from robust_clip.evaluation.protocol import Precision, Resolution, Templates
from robust_clip.evaluation.records import percent
from robust_clip.evaluation.run_folder import require_records
from robust_clip.models import (
    TEST_TIME_DEFENCES,
    TestTimeDefence,
    load_checkpoint,
    packaged_checkpoint,
    require_checkpoint,
)
from robust_clip.suggestions import instead
from robust_clip.threat_model import Norm

from .defence import Defence
from .recipe import choose, commas, read_section


def run(args: argparse.Namespace) -> int:
    """Evaluates every data set by every protocol, after all that can be refused beforehand has been looked at."""
    defence = _defence(args)
    given = (protocol for name in args.protocol for protocol in _protocols(name, args, defence))
    # Presets may share a protocol, which is then measured once.
    protocols = list(dict.fromkeys(_with_test_time_defence(given, args)))
    for protocol in protocols:
        protocol.require_packages()
    require_batch_size(args.batch_size)
    _require_use(args, protocols)
    require_records(args.records, args.resume)
    names = [*args.datasets, *_suite(args.suite)]
    if not names:
        raise ValueError("give what to measure on: --datasets NAME,NAME or --suite NAME")
    require_checkpoint(args.model)
    datasets = load_image_datasets(names, args.split, args.root)
    for dataset in datasets:
        require_classes(dataset)
    runs = [(dataset, protocol) for dataset in datasets for protocol in protocols]
    if args.records and not args.resume:
        for dataset, protocol in runs:
            RecordStore(args.records, dataset.name, dataset.split, protocol).require_new()
    state = process_state()
    loaded, processor = load_checkpoint(args.model)
    model: Any = loaded.to(state.device)
    revision = checkpoint_revision(packaged_checkpoint(args.model), model)
    adapted = defence.inner_problem(model, processor.tokenizer) if defence else None
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
            inner_problem=adapted if protocol.objective else None,
            thorough=args.checks,
            examples=4 if args.examples is None else args.examples,
        )
        for dataset, protocol in runs
    ]
    if state.is_main_process:
        as_json = args.format == "json"
        print(json.dumps([asdict(row) for row in rows], indent=2) if as_json else format_table(rows, args.checks))
    return 0


def _require_use(args: argparse.Namespace, protocols: Sequence[Protocol]) -> None:
    """Refuse options that would do nothing."""
    if args.examples is not None and not args.records:
        raise ValueError("--examples are kept with the records: give a folder for them as --records")
    if args.checks and not any(protocol.attacks for protocol in protocols):
        names = ", ".join(dict.fromkeys(protocol.name for protocol in protocols))
        raise ValueError(f"--checks tries attacks on images, and {names} has none: leave it out")


def _defence(args: argparse.Namespace) -> Defence | None:
    """The objective that attacks are adapted to; naming it and making attacks climb it go together."""
    if args.attack_loss is None:
        if args.objective or args.teacher:
            raise ValueError(
                "no attack climbs an objective unless it is told to: add --attack_loss objective, or leave out "
                "--objective and --teacher"
            )
        return None
    if args.objective is None:
        raise ValueError("--attack_loss objective needs to know which: give --objective, such as --objective tecoa")
    return Defence.read(args.objective, args.teacher)


def _protocols(name: str, args: argparse.Namespace, defence: Defence | None) -> list[Protocol]:
    return get_protocols(
        name,
        epsilons=args.epsilon or (),
        norm=args.norm,
        objective=(defence.name, defence.description) if defence else None,
        masked_lm=args.masked_lm,
        samples=args.samples,
        resolution=args.resolution,
        templates=args.templates,
        precision=args.precision,
        temperature=args.temperature,
        compiled=args.compile or None,
    )


def _with_test_time_defence(protocols: Iterable[Protocol], args: argparse.Namespace) -> list[Protocol]:
    """Each protocol as it is, or judged through the defence that is named, once for each state of knowledge."""
    text = args.test_time_defence
    if text is None:
        if args.attacks_know or args.eot_samples is not None:
            raise ValueError("--attacks_know and --eot_samples are about a --test_time_defence: give one, such as ttc")
        return list(protocols)
    if args.attacks_know == "false" and args.eot_samples is not None:
        raise ValueError("attacks that do not know of the defence meet none of its draws; leave out --eot_samples")
    settings = {"name": text} if text.isidentifier() else read_section("test_time_defence", text)
    defence: TestTimeDefence = choose("test_time_defence", TEST_TIME_DEFENCES, settings)
    states = {"true": (True,), "false": (False,), "both": (False, True)}[args.attacks_know or "true"]
    draws = 4 if args.eot_samples is None else args.eot_samples
    return [with_test_time_defence(each, defence, know, draws) for each in protocols for know in states]


def _suite(name: str | None) -> tuple[str, ...]:
    if name is None:
        return ()
    if name not in SUITES:
        raise ValueError(f"unknown suite {name!r}{instead(name, SUITES, 'known')}")
    return SUITES[name]


def format_table(rows: Sequence[Row], thorough: bool = False) -> str:
    """Rows as text: accuracies in percent, each with its interval.

    Args:
        rows: Of one model.
        thorough: Whether the whole battery of sanity checks was run.
    """
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
    notes = dict.fromkeys(
        f"{row.dataset['name']}, {row.protocol['name']}: {note}"
        for row in rows
        for note in row.substituted + row.checks
    )
    costs = dict.fromkeys(
        f"{row.protocol['name']}: {defence_cost.sentence(row.defence_cost)}" for row in rows if row.defence_cost
    )
    nothing = f"{'The whole battery of sanity' if thorough else 'Sanity'} checks found nothing."
    found = [*notes] or [nothing] * any(row.attacks for row in rows)
    return "\n".join([f"{rows[0].model['id']} ({rows[0].model['revision']})", "", *lines, "", *costs, *found])


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
    add("--datasets", default=(), type=commas, help="names, Hub ids or paths, with commas between them")
    add("--suite", help=f"data sets that papers measure on: one of {', '.join(SUITES)}")
    add("--root", help="folder whose sub-folders stand in for data sets of the Hub")
    add("--split", default="test", help="split of every data set")
    add("--protocol", required=True, type=commas, help=f"one or several of {', '.join(PRESETS)}")
    add("--epsilon", type=commas, help="radii in place of the protocol's, such as 1/255,2/255,4/255")
    add("--norm", choices=get_args(Norm), help="of the ball, in place of the protocol's; needs --epsilon")
    climbed = "climb a training objective's loss, where an attack can"
    add("--attack_loss", "--attack.loss", choices=("objective",), help=climbed)
    add("--objective", help="that objective, as recipes write it: tecoa, or '{name: tima, ...}'")
    add("--teacher", help="checkpoint that the objective compares with, where it does")
    add("--test_time_defence", help="judge through it: one of ttc, r_tpt, or '{name: ttc, steps: 5, ...}'")
    add("--attacks_know", choices=("true", "false", "both"), help="whether attacks go through it; true unless told")
    add("--eot_samples", type=int, help="draws of a random defence that an attack takes the mean over; 4 unless told")
    add("--samples", type=int, help="images of each split, in place of the protocol's number")
    add("--resolution", choices=get_args(Resolution), help="grid of the perturbation, in place of the protocol's")
    add("--templates", choices=get_args(Templates), help="class prompts, in place of the protocol's")
    add("--temperature", type=float, help="what cosines are divided by, in place of the checkpoint's")
    add("--precision", choices=get_args(Precision), help="number format, in place of the protocol's fp32")
    add("--compile", action="store_true", help="run the vision tower through torch.compile")
    add("--masked_lm", help="masked language model of attacks on texts, in place of bert-base-uncased")
    add("--seed", type=int, default=0, help="of the choice of images and of random starts")
    add("--batch_size", type=int, default=64, help="images in a batch")
    add("--num_workers", type=int, default=0, help="processes that decode images")
    add("--records", help="folder for rows and samples of this model; nothing is kept without it")
    add("--on_bad_image", choices=("raise", "skip"), default="raise", help="what to do with an unreadable image")
    add("--examples", type=int, help="broken images and attacked prompts to keep with the records; 4 unless told")
    add("--checks", action="store_true", help="also try the first attack in many ways on 32 images, about ten times")
    add("--resume", action="store_true", help="go on from the records that are there")
    add("--format", choices=("text", "json"), default="text", help="what to print")
    parser.set_defaults(run=run)
