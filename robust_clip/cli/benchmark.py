"""`robust-clip benchmark`: what an objective's training step costs beside a clean step and beside its floor."""

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import datasets
import torch
from accelerate.utils import tqdm

from robust_clip.attacks import ATTACKS
from robust_clip.data import ImageDataset
from robust_clip.models import load_checkpoint
from robust_clip.models.scratch import build_clip
from robust_clip.objectives import OBJECTIVES, Clean, Objective
from robust_clip.threat_model import ThreatModel
from robust_clip.training import AdversarialTrainer, AdversarialTrainingArguments

from .recipe import choose_attack

# Randomly initialised towers of the published sizes; speed does not depend on the weights. Widths that are not given
# are those of ViT-B, transformers' defaults; the vocabulary is CLIP's, of which the prompts use little.
_TEXT = {"vocab_size": 49408}
SIZES: dict[str, dict[str, Any]] = {
    "vit_b32": {"vision_config": {"patch_size": 32}, "text_config": _TEXT, "projection_dim": 512},
    "vit_b16": {"vision_config": {"patch_size": 16}, "text_config": _TEXT, "projection_dim": 512},
    "vit_l14": {
        "vision_config": {
            "patch_size": 14,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
        "text_config": _TEXT | {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        "projection_dim": 768,
    },
}


def run(args: argparse.Namespace) -> int:
    """Measures and prints."""
    if args.objective not in OBJECTIVES:
        raise ValueError(f"Unknown objective {args.objective!r}; known: {', '.join(sorted(OBJECTIVES))}.")
    if args.repeats < 1:
        raise ValueError(f"--repeats must be at least 1, got {args.repeats}.")
    objective, attack = OBJECTIVES[args.objective](), choose_attack(args.attack, args.steps, pgd_steps=2)
    ThreatModel("linf", args.epsilon)
    clean_times, own_times = _step_times(args, objective)
    clean_s, own_s = statistics.median(clean_times), statistics.median(own_times)
    floor = step_floor(objective, attack)
    ratio = statistics.median(own / clean for clean, own in zip(clean_times, own_times, strict=True))
    clean_mib, own_mib = (_peak_memory(args, name) for name in ("clean", args.objective))
    device = "cuda" if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    against = _described(args.attack, attack) if objective.needs_attack else "no attack"
    lines = [
        f"{args.objective}, {against}, on {args.model}, {args.classes} classes, batch {args.batch_size}, {device}",
        f"clean step        {clean_s:8.3f} s",
        f"{'adversarial' if objective.needs_attack else 'own':<11} step  {own_s:8.3f} s   "
        f"{args.batch_size / own_s:.1f} images/s",
        f"ratio             {ratio:8.3f}",
        f"floor             {floor:8.3f}     the step costs {ratio / floor:.3f} times its floor",
        f"peak memory       {own_mib:8.0f} MiB, {own_mib / clean_mib:.3f} times a clean step's {clean_mib:.0f}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _described(name: str, attack: Any) -> str:
    return f"{name} with {attack.steps} step(s)" if hasattr(attack, "steps") else name


def _step_times(args: argparse.Namespace, objective: Objective) -> tuple[list[float], list[float]]:
    """Seconds of clean steps and of the objective's, in turns, so that whatever else slows the machine slows both."""
    times: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory(prefix="robust-clip-benchmark-") as folder:
        steps = [_step(args, each, folder) for each in (Clean(), objective)]
        for step in steps:  # the first is slower: memory is allocated, kernels are chosen
            step()
        for _ in tqdm(range(args.repeats), desc="timed pairs of steps"):
            for step, elapsed in zip(steps, times, strict=True):
                elapsed.append(_timed(step))
    return times


def step_floor(objective: Objective, attack: Any) -> float:
    """Least cost of a training step in clean steps (design: F = Bx = Bw, a clean step is 3F).

    Each attack step is a forward and a backward pass to the pixels; each pass of the student that the loss has a
    gradient through is 3F, each pass of the teacher F.
    """
    attack_passes = 2 * attack.gradient_passes if objective.needs_attack else 0
    return (attack_passes + 3 * objective.student_passes + objective.teacher_passes) / 3


def _step(args: argparse.Namespace, objective: Objective, folder: str) -> Callable[[], None]:
    """One whole training step of the Trainer, optimiser included, on a fixed random batch; `folder` is for its use."""
    names = [f"class {number}" for number in range(args.classes)]
    torch.manual_seed(0)
    if args.model in SIZES:
        model, processor = build_clip(names, **SIZES[args.model])
    else:
        model, processor = load_checkpoint(args.model)
    trainer = AdversarialTrainer(
        model,
        AdversarialTrainingArguments(output_dir=folder, report_to="none", bf16=args.bf16, disable_tqdm=True),
        objective=objective,
        attack=choose_attack(args.attack, args.steps, pgd_steps=2) if objective.needs_attack else None,
        threat_model=ThreatModel("linf", args.epsilon) if objective.needs_attack else None,
        train_dataset=_labels_only(names),
        processing_class=processor,
    )
    wrapped = trainer.accelerator.prepare_model(model)
    trainer.create_optimizer()
    batch = {
        "pixels": torch.rand(args.batch_size, 3, model.image_size, model.image_size),
        "labels": torch.randint(args.classes, (args.batch_size,)),
        "index": torch.arange(args.batch_size),
        "texts": [f"a photo of {names[number % args.classes]}" for number in range(args.batch_size)],
    }
    trainer.current_gradient_accumulation_steps = 1

    def step() -> None:
        trainer.training_step(wrapped, dict(batch))
        trainer.optimizer.step()
        wrapped.zero_grad()

    return step


def _labels_only(names: list[str]) -> ImageDataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    empty_image = {"bytes": b"", "path": None}
    return ImageDataset(datasets.Dataset.from_dict({"image": [empty_image], "label": [0]}, features=features))


def _timed(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak_memory(args: argparse.Namespace, objective: str) -> float:
    """Peak of a fresh process that takes two steps, in MiB: allocated on the GPU, or resident on a CPU."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_of_two_steps, args, objective).result()


def _peak_of_two_steps(args: argparse.Namespace, objective: str) -> float:
    with tempfile.TemporaryDirectory(prefix="robust-clip-benchmark-") as folder:
        step = _step(args, OBJECTIVES[objective](), folder)
        step()
        step()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("benchmark", help="cost of a training step beside its floor", description=__doc__)
    parser.add_argument("--objective", default="tecoa", help=f"one of {', '.join(OBJECTIVES)}")
    parser.add_argument("--attack", default="pgd", help=f"one of {', '.join(ATTACKS)}")
    parser.add_argument("--steps", type=int, help="gradient steps, in place of the attack's own; 2 for pgd")
    parser.add_argument("--epsilon", default="1/255", help="radius in pixel units")
    parser.add_argument("--model", default="vit_b32", help=f"{', '.join(SIZES)} at random, or a checkpoint")
    parser.add_argument("--classes", type=int, default=200, help="number of class prompts")
    parser.add_argument("--batch_size", type=int, default=16, help="images in a step")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each kind, after one that is not")
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast")
    parser.set_defaults(run=run)
