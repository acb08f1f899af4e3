"""`robust-clip study`: trains several methods under one budget, measures them alike and renders the tables."""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

from robust_clip.data import DataSource, ImageDataset
from robust_clip.data.root import require_root
from robust_clip.evaluation import Row, checkpoint_revision, evaluate_robustness
from robust_clip.evaluation.method_summary import RATE, SEED, summary
from robust_clip.evaluation.processes import process_state
from robust_clip.evaluation.records import write_text
from robust_clip.evaluation.side_by_side import group_rows
from robust_clip.evaluation.tables import folded, markdown_table, read_rows, version_notes
from robust_clip.models import packaged_checkpoint
from robust_clip.suggestions import instead
from robust_clip.training.resume import is_finished

from .recipe import as_section, read_yaml
from .report import deliver
from .sections import ModelSource, Sections
from .study_plan import Measurement, Run, StudyPlan
from .train import train_recipe

_ORIGINAL = "original"


def run(args: argparse.Namespace) -> int:
    """Trains and measures what is not done yet, then renders; or renders rows that are there."""
    plan = StudyPlan.read(args.study, args.root)
    if args.render and (args.methods or args.root):
        raise ValueError("--render takes all rows of its folder and reads no data; leave --methods and --root out.")
    rows = read_rows(args.render) if args.render else _rows(args, plan)
    deliver(render(rows, plan, means_only=args.means), args.into)
    return 0


def _rows(args: argparse.Namespace, plan: StudyPlan) -> list[Row]:
    """Those of the methods asked for, of the first seeds first."""
    out = Path(plan.output_dir)
    methods = list(dict.fromkeys(args.methods or plan.methods))
    for method in methods:
        if method not in plan.methods:
            raise ValueError(f"Unknown method {method!r}{instead(method, plan.methods, 'the study has')}")
    measuring = Measuring(plan.root, args.batch_size, out / "rows")
    chooses = any(len(plan.learning_rates_of(method)) > 1 for method in methods)
    for method in methods:
        require_root(Sections.of(plan.run(method, 1.0, 0).recipe).data.root)
    wanted = [each for each in plan.evaluation if not each.only or set(each.only) & set(methods)]
    measuring.require([plan.selection, *wanted] if chooses else wanted)
    _claim(out, read_yaml(args.study))
    if args.methods is None:
        _measure_original(plan, measuring)
    choose = cache(partial(_choose, plan, measuring=measuring))
    for method, seed in plan.by_seed(methods):
        trained = plan.run(method, choose(method).learning_rate, seed)
        _train(trained)
        for measurement in plan.evaluation:
            if not measurement.only or method in measurement.only:
                measuring.measure(ModelSource(str(trained.folder)), measurement, _name(trained))
    return measuring.rows


class Measuring:
    """Measures checkpoints; data sets are read once.

    Args:
        root: Folder that is looked into before the Hub.
        batch_size: Images in a batch.
        records: Folder for rows, those by which learning rates are chosen among them.

    Attributes:
        rows: All that were asked for so far.

    Raises:
        ValueError: If `root` is no folder; what is to be measured may be asked for only after hours of training.
    """

    def __init__(self, root: str | None, batch_size: int, records: Path) -> None:
        require_root(root)
        self.root = root
        self.batch_size = batch_size
        self.records = records
        self.rows: list[Row] = []
        self._load = cache(self._load_dataset)

    def require(self, measurements: Sequence[Measurement]) -> None:
        """Reads what is to be measured on.

        Raises:
            ValueError: If a data set is not there.
        """
        for measurement in measurements:
            for name, source in measurement.sources(self.root).items():
                self._load(source, name)

    def measure(self, checkpoint: ModelSource, measurement: Measurement, model_id: str) -> list[Row]:
        """Rows of a checkpoint, one for each data set and protocol; those that are there already are taken."""
        loaded, processor = checkpoint.load(())
        model: Any = loaded.to(process_state().device)
        revision = checkpoint_revision(packaged_checkpoint(str(checkpoint.name)), model)
        found = [
            evaluate_robustness(
                model,
                processor.tokenizer,
                self._load(source, name),
                protocol,
                batch_size=self.batch_size,
                records_dir=self.records / model_id,
                resume=True,
                revision=revision,
                model_id=model_id,
            )
            for name, source in measurement.sources(self.root).items()
            for protocol in measurement.protocols()
        ]
        self.rows += found
        return found

    def _load_dataset(self, source: DataSource, name: str) -> ImageDataset:
        only: Any = source.load()  # a mixture has several names
        return only.called(name) if source.name != name else only


def _claim(out: Path, content: Mapping[str, Any]) -> None:
    """Makes sure that what is there is of the same study, to which methods, seeds and measurements may be added."""
    copy = out / "study.yaml"
    found = yaml.safe_load(copy.read_text()) if copy.exists() else {}
    before, now = _settled(found), _settled(content)
    different = sorted(key for key in before.keys() & now.keys() if before[key] != now[key])
    if different:
        raise ValueError(f"{out} holds another study: it differs in {', '.join(different)}. Name another output_dir.")
    out.mkdir(parents=True, exist_ok=True)
    methods = {**found.get("methods", {}), **content["methods"]}
    write_text(copy, yaml.safe_dump({**content, "methods": methods}, sort_keys=False))


def _settled(content: Mapping[str, Any]) -> dict[str, Any]:
    """What rows that are there depend on: what is shared, of each method all but further seeds, numbers of images."""
    shared = {key: content[key] for key in ("recipe", "learning_rates", "selection") if key in content}
    own = {
        f"methods.{name}": {**method, "seeds": (method.get("seeds") or content.get("seeds") or [0])[0]}
        for name, method in content.get("methods", {}).items()
    }
    measured = {
        f"{each['protocol']} on {name} ({each.get('split', 'test')})": each.get("samples")
        for each in content.get("evaluation", ())
        for name in each.get("datasets", ())
    }
    return shared | own | measured


def _measure_original(plan: StudyPlan, measuring: Measuring) -> None:
    """What all methods start from, as it was published; nothing where they share no checkpoint."""
    shared = as_section("model", plan.recipe.get("model"))
    if "name" not in shared:
        return
    original = ModelSource(**{key: shared[key] for key in ("name", "revision") if key in shared})
    for measurement in plan.evaluation:
        if not measurement.only:
            measuring.measure(original, measurement, _ORIGINAL)


def _choose(plan: StudyPlan, method: str, measuring: Measuring) -> Run:
    """The run of the grid that does best on held-out images: by the mean of clean and robust accuracy."""
    scores = {}
    for trial in plan.grid(method):
        _train(trial)
        if len(plan.learning_rates_of(method)) == 1:
            return trial
        rows = measuring.measure(ModelSource(str(trial.folder)), plan.selection, _name(trial))
        means = [(row.clean_accuracy + (row.robust_accuracy or 0.0)) / 2 for row in rows]
        scores[trial.learning_rate] = statistics.fmean(means)
    best = max(scores, key=lambda rate: scores[rate])
    told = ", ".join(f"{rate:g}: {100 * score:.1f}" for rate, score in scores.items())
    sys.stdout.write(f"{method}: learning rate {best:g} chosen by held-out images ({told})\n")
    return plan.run(method, best, plan.seeds_of(method)[0])


def _train(run: Run) -> None:
    if not is_finished(run.folder):
        train_recipe(run.recipe, resume=True)


def _name(run: Run) -> str:
    return f"{run.method}{SEED}{run.seed}{RATE}{run.learning_rate:g}"


def render(rows: Sequence[Row], plan: StudyPlan, *, means_only: bool = False) -> str:
    """Means of each method over its seeds and every row, one table for each protocol; last what chose among rates.

    Args:
        rows: Of the study.
        plan: Its methods, in order.
        means_only: Leave out every row, and what chose among rates.

    Raises:
        ValueError: If no row is of the study.
    """
    known = {_ORIGINAL, *plan.methods}
    if not any(row.model["id"].split(SEED)[0] in known for row in rows):
        raise ValueError(f"No row is of a method of this study, which has {', '.join(plan.methods)}.")
    trained_on = Path(str(plan.run(next(iter(plan.methods)), 1.0, 0).recipe["data"]["train"])).name
    tables, choices = [], []
    for measure, group in group_rows(rows).items():
        if {row.dataset["split"] for row in group} == {plan.selection.split}:
            title = f"Held-out images, by which learning rates are chosen. {measure}"
            choices.append(folded(title, markdown_table(group)))
            continue
        whole = [row for row in group if row.dataset["name"] not in plan.parts_of_sets]
        means = [summary(whole, [_ORIGINAL, *plan.methods], trained_on)] if whole else []
        if means or not means_only:
            every_row = [] if means_only else [folded("Every data set and model", markdown_table(group))]
            tables += [f"**{measure}**", *means, *version_notes(group), *every_row]
    return "\n\n".join(tables if means_only else tables + choices)


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("study", help="train several methods alike and compare them", description=__doc__)
    parser.add_argument("study", type=Path, help="YAML file of the study; run it again and it goes on")
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--root", help="folder looked into before the Hub, for training and evaluation")
    parser.add_argument("--batch_size", type=int, default=64, help="images in a batch of the evaluation")
    parser.add_argument("--render", type=Path, metavar="ROWS", help="train nothing: the tables of rows in a folder")
    parser.add_argument("--means", action="store_true", help="means over data sets alone, without a line for each row")
    parser.add_argument("--into", type=Path, help="Markdown file with the markers of a table; printed if not given")
    parser.set_defaults(run=run)
