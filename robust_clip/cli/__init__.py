"""The command line: one file per command."""

import argparse
import gc
import os
import sys
from collections.abc import Sequence

import torch

from . import (
    attack,
    benchmark,
    card,
    compare,
    convert,
    datasets,
    evaluate,
    export,
    merge,
    models,
    push,
    report,
    retrieve,
    study,
    train,
)

COMMANDS = (
    *(train, merge, study, evaluate, retrieve, attack, benchmark, compare, datasets, report, card, push),
    *(models, convert, export),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `robust-clip COMMAND ...`; what goes wrong ends in one line on standard error and exit code 2, or 130."""
    parser = argparse.ArgumentParser(prog="robust-clip", description="Robust CLIP: train, attack and evaluate.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    args, overrides = parser.parse_known_args(argv)
    if overrides and not getattr(args, "takes_overrides", False):
        parser.error(f"unrecognised arguments: {' '.join(overrides)}")
    args.overrides = overrides
    if "LOCAL_RANK" in os.environ and not torch.accelerator.is_available():
        # accelerate's launcher of several processes does not pass on that there is no GPU, and without this each
        # process would take itself for the only one.
        os.environ["ACCELERATE_USE_CPU"] = "true"
    try:
        code = int(args.run(args))
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.stderr.write(f"robust-clip {args.command}: {error}\n")
        return 2
    except KeyboardInterrupt:
        more = "; go on with --resume from what was kept" if getattr(args, "records", None) else ""
        sys.stderr.write(f"\nrobust-clip {args.command}: interrupted{more}\n")
        return 130
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # The interpreter may abort if threads of gloo outlive it (pytorch/pytorch#179291), and they live until the
        # last reference to the group goes, some of which a Trainer holds in cycles.
        torch.distributed.destroy_process_group()
        gc.collect()
    return code
