"""`robust-clip retrieve`: recall of a checkpoint on captioned images, clean and attacked, with 95 % intervals."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, get_args

from robust_clip.attacks import ATTACKS, MULTIMODAL_ATTACKS, TEXT_ATTACKS, BERTAttack, TextAttack
from robust_clip.attacks.character import CharacterAttack
from robust_clip.data import load_image_datasets
from robust_clip.evaluation import checkpoint_revision
from robust_clip.evaluation.processes import process_state
from robust_clip.evaluation.protocol import Precision
from robust_clip.evaluation.recall import CUTOFFS, DIRECTIONS
from robust_clip.evaluation.records import percent
from robust_clip.evaluation.retrieval import choose_pairs, evaluate_retrieval
from robust_clip.evaluation.retrieval_protocol import Aim, Grid, RetrievalProtocol
from robust_clip.evaluation.retrieval_records import RetrievalRow, RetrievalStore
from robust_clip.evaluation.run_folder import require_records
from robust_clip.models import load_checkpoint, packaged_checkpoint, require_checkpoint
from robust_clip.threat_model import ThreatModel, require_radius

from .recipe import choose, choose_attack, commas

# What attacks on one side climb, and what of both sides is attacked, in words.
_AIMS = {
    "gallery": "how much likelier the rest of the other side's gallery is than what belongs to it",
    "pair": "the distance from what belongs to it",
    "self": "the distance from its own clean embedding",
}
_SIDES = {"image": "images", "text": "captions"}
_ATTACKED = "nothing, which is clean recall, or all images, all captions, or both, as queries and in the gallery"
_IMAGES, _CAPTIONS = ("image", "both", *MULTIMODAL_ATTACKS), ("text", "both", *MULTIMODAL_ATTACKS)


def run(args: argparse.Namespace) -> int:
    """Measures every data set, after all that can be refused beforehand has been looked at."""
    protocol = _protocol(args)
    protocol.require_packages()
    require_records(args.records, args.resume)
    if not args.datasets:
        raise ValueError("give what to measure on: --datasets NAME,NAME")
    require_checkpoint(args.model)
    datasets = load_image_datasets(args.datasets, args.split, args.root)
    for dataset in datasets:
        choose_pairs(dataset, protocol)
        if args.records and not args.resume:
            RetrievalStore(args.records, dataset.name, dataset.split, protocol).require_new()
    loaded, processor = load_checkpoint(args.model)
    model: Any = loaded.to(process_state().device)
    revision = checkpoint_revision(packaged_checkpoint(args.model), model)
    rows = [
        evaluate_retrieval(
            model,
            processor.tokenizer,
            dataset,
            protocol,
            batch_size=args.batch_size,
            records_dir=args.records,
            resume=args.resume,
            revision=revision,
        )
        for dataset in datasets
    ]
    print(json.dumps([asdict(row) for row in rows], indent=2) if args.format == "json" else format_recalls(rows))
    return 0


def _protocol(args: argparse.Namespace) -> RetrievalProtocol:
    """What is measured; an option that means nothing for the attack is refused."""
    idle = {
        "an attack on images": (("norm", "epsilon", "image_attack", "steps"), args.attack in _IMAGES),
        "an attack on captions": (("text_attack", "masked_lm", "changes"), args.attack in _CAPTIONS),
        "attack image, text or both": (("aim",), args.attack in ("image", "text", "both")),
    }
    for where, (options, used) in idle.items():
        if given := [option for option in options if not used and getattr(args, option) is not None]:
            raise ValueError(f"--{given[0]} is for {where}, and the attack is {args.attack}")
    if args.attack in _IMAGES and args.epsilon is None:
        raise ValueError(f"attack {args.attack} needs the radius of its change to images, such as --epsilon 4/255")
    threat_model = ThreatModel(args.norm or "linf", args.epsilon) if args.attack in _IMAGES else None
    if threat_model:
        require_radius(threat_model)
    joint = MULTIMODAL_ATTACKS.get(args.attack)
    # One side alone is attacked as classes are, and pairs as their papers do it.
    steps = 10 if joint else 20
    image = choose_attack(args.image_attack or "pgd", args.steps, pgd_steps=steps) if args.attack in _IMAGES else None
    text = _text_attack(args) if args.attack in _CAPTIONS else None
    attacks: dict[str, Any] = {"image_attack": image, "text_attack": text}
    return RetrievalProtocol(
        **({"joint_attack": joint(**attacks)} if joint else attacks),
        aim=args.aim or "gallery",
        threat_model=threat_model,
        samples=args.samples,
        captions_per_image=args.captions_per_image,
        seed=args.seed,
        resolution=args.resolution,
        precision=args.precision,
    )


def _text_attack(args: argparse.Namespace) -> TextAttack:
    """The search for captions, BERT-Attack unless another is named."""
    attack: Any = choose("text_attack", TEXT_ATTACKS, {"name": args.text_attack or BERTAttack.short_name})
    if args.masked_lm is not None:
        if not isinstance(attack, BERTAttack):
            raise ValueError(f"--masked_lm is for bert_attack, and the text attack is {attack.short_name}")
        attack = replace(attack, masked_lm=args.masked_lm)
    if args.changes is not None:
        attack = replace(attack, **{"edits" if isinstance(attack, CharacterAttack) else "words": args.changes})
    found: TextAttack = attack
    return found


def format_recalls(rows: Sequence[RetrievalRow]) -> str:
    """Rows as text: a line for each mode, recalls in percent, each with its interval; then what the names mean.

    A recall that every model has, for the gallery has no more entries than the recall counts, is left out.
    """
    columns = [(way, f"R@{cutoff}") for way in DIRECTIONS for cutoff in CUTOFFS]
    header = ["data set", "split", "attack", "images", "captions", "attacked"]
    cells = [header + [f"{way.replace('_to_', '->')} {name}" for way, name in columns]]
    for row in rows:
        attack = f"{row.attack} {row.threat_model}" if row.threat_model else row.attack
        place = [row.dataset["name"], row.dataset["split"], attack, str(row.n_images), str(row.n_captions)]
        for mode, ways in row.recalls.items():
            shares = [_share(row, way, name, ways[way][name]) for way, name in columns]
            cells.append([*place, "nothing" if mode == "clean" else mode, *shares])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    cut = [f"{row.dataset['name']}: {row.truncated} captions are cut" for row in rows if row.truncated]
    told = [f"attacked: {_ATTACKED}", *dict.fromkeys(_explained(row) for row in rows if row.attack != "none")]
    told += dict.fromkeys(note for row in rows for note in _trivial(row))
    return "\n".join([f"{rows[0].model['id']} ({rows[0].model['revision']})", "", *lines, "", *told, *cut])


def _share(row: RetrievalRow, way: str, name: str, found: dict[str, Any]) -> str:
    trivial = _gallery(row, way) <= int(name.removeprefix("R@"))
    return "-" if trivial else percent(found["recall"], found["interval"], missing="-")


def _gallery(row: RetrievalRow, way: str) -> int:
    return row.n_captions if way == "image_to_text" else row.n_images


def _trivial(row: RetrievalRow) -> list[str]:
    """Which recalls are left out, and why."""
    notes = []
    for way in DIRECTIONS:
        size = _gallery(row, way)
        if names := [f"R@{cutoff}" for cutoff in CUTOFFS if size <= cutoff]:
            where = f"{row.dataset['name']}, {way.replace('_to_', '->')}: {', '.join(names)}"
            notes.append(f"{where} left out: the gallery has only {size} entries, so that every query finds its own")
    return notes


def _explained(row: RetrievalRow) -> str:
    """The name of an attack in words."""
    if "joint_attack" in row.protocol:
        joint, text = row.attack.split("-")
        return f"{row.attack}: {joint} on images and captions together, with {text} as its search for captions"
    searches, aim = row.attack.split("-")
    sides = [name for side, name in _SIDES.items() if f"{side}_attack" in row.protocol]
    named = [f"{search} on {side}" for search, side in zip(searches.split("+"), sides, strict=True)]
    return f"{row.attack}: {' and '.join(named)}, climbing {_AIMS[aim]}"


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "retrieve",
        help="measure clean and attacked recall between images and captions",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="The table calls an attack by its search and what it climbs, such as pgd-gallery or pgd+leaf-pair ("
        + "; ".join(f"{aim}: {told}" for aim, told in _AIMS.items())
        + f"), or sga-leaf, where two search together. What is attacked: {_ATTACKED}. "
        "R@K is left out where the gallery has no more than K entries.",
    )
    add = parser.add_argument
    add("--model", required=True, help="directory or Hub id of a CLIP checkpoint, or nano_clip")
    add("--datasets", required=True, type=commas, help="captioned data sets: names, Hub ids or paths, with commas")
    add("--root", help="folder whose sub-folders stand in for data sets of the Hub")
    add("--split", default="test", help="split of every data set")
    attacks = ("none", "image", "text", "both", *MULTIMODAL_ATTACKS)
    add("--attack", choices=attacks, default="none", help="what is attacked; both attacks each side for itself")
    add("--aim", choices=get_args(Aim), help="what attacks on one side climb; gallery, the strongest, by default")
    add("--norm", help="linf, the default, or l2")
    add("--epsilon", help="radius of attacks on images, such as 4/255")
    add("--image_attack", help=f"search for images, pgd by default: one of {', '.join(ATTACKS)}")
    add("--steps", type=int, help="its gradient steps; for pgd 20 by default, and 10 within co_attack and sga")
    add("--text_attack", help=f"search for captions, bert_attack by default: one of {', '.join(TEXT_ATTACKS)}")
    add("--masked_lm", help="masked language model of bert_attack, in place of bert-base-uncased")
    add("--changes", type=int, help="words or characters that a caption may change; 1 by default")
    add("--samples", type=int, help="images drawn from each split by the seed; all by default")
    add("--captions_per_image", type=int, help="only the first so many captions of an image; all by default")
    add("--resolution", choices=get_args(Grid), default="native", help="grid of the perturbation")
    add("--precision", choices=get_args(Precision), default="fp32", help="number format")
    add("--seed", type=int, default=0, help="of the choice of images and of all attacks")
    add("--batch_size", type=int, default=32, help="most images in one forward pass, up to 32")
    add("--records", help="folder for rows and pairs of this model; nothing is kept without it")
    add("--resume", action="store_true", help="go on from the records that are there")
    add("--format", choices=("text", "json"), default="text", help="what to print")
    parser.set_defaults(run=run)
