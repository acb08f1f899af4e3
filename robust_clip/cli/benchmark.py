"""`robust-clip benchmark`: what an objective's training step costs beside a clean step and beside its floor."""

import argparse
import multiprocessing
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.utils import tqdm

from robust_clip.adaptation import ADAPTATIONS, Adaptation, FullFineTuning
from robust_clip.attacks import ATTACKS, TEXT_ATTACKS
from robust_clip.data import ImageDataset
from robust_clip.models import embed_texts, fill_templates, load_checkpoint
from robust_clip.models.scratch import build_clip
from robust_clip.objectives import OBJECTIVES, Clean, Objective
from robust_clip.threat_model import ThreatModel
from robust_clip.training import AdversarialTrainer, AdversarialTrainingArguments

from .recipe import choose, choose_attack, read_section

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
    _adaptation(args)
    times = _step_times(args, objective)
    clean_s, own_s, text_s, prompts_s, text_attack_s = map(statistics.median, zip(*times, strict=True))
    whole = isinstance(_adaptation(args), FullFineTuning | None)
    floor = step_floor(objective, attack, text_s / clean_s, prompts_s / clean_s, whole=whole)
    ratio = statistics.median((own - attacking) / clean for clean, own, _, _, attacking in times)
    (clean_mib, _), (own_mib, learning) = (_peak_memory(args, name) for name in ("clean", args.objective))
    device = "cuda" if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    against = _described(args.attack, attack) if objective.needs_attack else "no attack on images"
    lines = [
        f"{args.objective}, {against}, on {args.model}, {args.classes} classes, batch {args.batch_size}, {device}",
        f"clean step        {clean_s:8.3f} s",
        f"{'adversarial' if objective.needs_attack else 'own':<11} step  {own_s:8.3f} s   "
        f"{args.batch_size / own_s:.1f} images/s",
    ]
    if objective.needs_text_attack:
        share = text_attack_s / own_s
        lines.append(f"attack on texts   {text_attack_s:8.3f} s   {share:.1%} of the step, not in what follows")
    lines += [
        f"ratio             {ratio:8.3f}",
        f"floor             {floor:8.3f}     the step costs {ratio / floor:.3f} times its floor",
        f"peak memory       {own_mib:8.0f} MiB, {own_mib / clean_mib:.3f} times a clean step's {clean_mib:.0f}",
        f"weights that learn {learning:,}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _described(name: str, attack: Any) -> str:
    return f"{name} with {attack.steps} step(s)" if hasattr(attack, "steps") else name


def _step_times(args: argparse.Namespace, objective: Objective) -> list[tuple[float, ...]]:
    """Seconds of a clean step, the objective's, a pass of its texts, one of all prompts, and its attack on texts.

    Whatever else slows the machine then slows all of them.
    """
    times = []
    with tempfile.TemporaryDirectory(prefix="robust-clip-benchmark-") as folder:
        clean, own = (Step(args, each, folder) for each in (Clean(), objective))
        parts = (clean, own, own.encode_texts, own.encode_prompts)
        for step in parts:  # the first is slower: memory is allocated, kernels are chosen
            step()
        for _ in tqdm(range(args.repeats), desc="timed steps"):
            attacking = own.text_attack_seconds
            seconds = tuple(_timed(step) for step in parts)
            times.append((*seconds, own.text_attack_seconds - attacking))
    return times


def _adaptation(args: argparse.Namespace) -> Adaptation | None:
    return choose("adaptation", ADAPTATIONS, read_section("adaptation", args.adaptation)) if args.adaptation else None


def step_floor(
    objective: Objective, attack: Any, text_pass: float = 0.0, prompts_pass: float = 0.0, *, whole: bool = True
) -> float:
    """Least cost of a training step in clean steps (design: F = Bx = Bw, a clean step is 3F).

    Each attack step is a forward and a backward pass to the pixels; each pass of the student that the loss has a
    gradient through is 3F, each pass of the teacher F; the text tower likewise.

    Args:
        objective: Says how many passes it takes.
        attack: The attack on images; those on texts are not counted.
        text_pass: Cost of a forward pass of the text tower over the objective's texts, in clean steps.
        prompts_pass: Likewise over all class prompts, which the attack on images needs anew where text learns.
        whole: Whether all weights learn. Where few are added to frozen ones a pass with its gradient is 2F, and
            what the few cost is not counted.
    """
    attack_passes = 2 * attack.gradient_passes if objective.needs_attack else 0
    learning_pass = 3 if whole else 2
    images = attack_passes + learning_pass * objective.student_passes + objective.teacher_passes
    embeds = objective.trains_text and objective.needs_attack
    return images / 3 + learning_pass * objective.text_passes * text_pass + embeds * prompts_pass


class Step:
    """One whole training step of the Trainer, optimiser included, on a fixed random batch.

    Args:
        args: Of the command.
        objective: What is trained.
        folder: For the Trainer's use.
    """

    def __init__(self, args: argparse.Namespace, objective: Objective, folder: str) -> None:
        names = [f"class {number}" for number in range(args.classes)]
        torch.manual_seed(0)
        if args.model in SIZES:
            model, processor = build_clip(names, **SIZES[args.model])
        else:
            model, processor = load_checkpoint(args.model)
        self.trainer = AdversarialTrainer(
            model,
            AdversarialTrainingArguments(output_dir=folder, report_to="none", bf16=args.bf16, disable_tqdm=True),
            objective=objective,
            attack=choose_attack(args.attack, args.steps, pgd_steps=2) if objective.needs_attack else None,
            threat_model=ThreatModel("linf", args.epsilon) if objective.needs_attack else None,
            text_attack=TEXT_ATTACKS[args.text_attack]() if objective.needs_text_attack else None,
            adaptation=None if isinstance(objective, Clean) else _adaptation(args),
            train_dataset=_labels_only(names),
            processing_class=processor,
        )
        self.model: Any = self.trainer.model
        self.wrapped = self.trainer.accelerator.prepare_model(self.model)
        self.trainer.create_optimizer()
        self.batch: dict[str, Any] = {
            "pixels": torch.rand(args.batch_size, 3, model.image_size, model.image_size),
            "labels": torch.randint(args.classes, (args.batch_size,)),
            "index": torch.arange(args.batch_size),
            "texts": [f"a photo of {names[number % args.classes]}" for number in range(args.batch_size)],
        }
        self.prompts = fill_templates(names, self.trainer.train_dataset.templates)
        self.texts = self.batch["texts"] if objective.needs_captions else self.prompts
        self.trainer.current_gradient_accumulation_steps = 1

    def __call__(self) -> None:
        """Takes it."""
        self.trainer.training_step(self.wrapped, dict(self.batch))
        self.trainer.optimizer.step()
        self.wrapped.zero_grad()

    def encode_texts(self) -> None:
        """One pass of the texts that the objective sees, without gradient."""
        embed_texts(self.model, self.trainer.processing_class.tokenizer, self.texts)

    def encode_prompts(self) -> None:
        """One pass of all class prompts, without gradient."""
        embed_texts(self.model, self.trainer.processing_class.tokenizer, self.prompts)

    @property
    def text_attack_seconds(self) -> float:
        """Of all steps so far."""
        return self.trainer.batches.text_attack_seconds


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


def _peak_memory(args: argparse.Namespace, objective: str) -> tuple[float, int]:
    """Peak of a fresh process that takes two steps, in MiB, and how many weights learn in it.

    The peak is what is allocated on the GPU, or resident on a CPU.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_of_two_steps, args, objective).result()


def _peak_of_two_steps(args: argparse.Namespace, objective: str) -> tuple[float, int]:
    with tempfile.TemporaryDirectory(prefix="robust-clip-benchmark-") as folder:
        step = Step(args, OBJECTIVES[objective](), folder)
        step()
        step()
    learning = sum(parameter.numel() for parameter in step.model.parameters() if parameter.requires_grad)
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20, learning
    return _resident_peak(), learning


def _resident_peak() -> float:
    """Most memory that this process has had resident, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux lets `ru_maxrss` begin with what the parent had, which is far more here.
        return int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())[0]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("benchmark", help="cost of a training step beside its floor", description=__doc__)
    parser.add_argument("--objective", default="tecoa", help=f"one of {', '.join(OBJECTIVES)}")
    parser.add_argument(
        "--adaptation", help="what learns: full, lora, '{name: lora, r: 4}', ...; by default the objective's towers"
    )
    parser.add_argument("--attack", default="pgd", help=f"one of {', '.join(ATTACKS)}")
    parser.add_argument("--steps", type=int, help="gradient steps, in place of the attack's own; 2 for pgd")
    texts = ("charmer", "leaf", "word_list")
    parser.add_argument("--text_attack", choices=texts, default="word_list", help="for objectives that attack texts")
    parser.add_argument("--epsilon", default="1/255", help="radius in pixel units")
    parser.add_argument("--model", default="vit_b32", help=f"{', '.join(SIZES)} at random, or a checkpoint")
    parser.add_argument("--classes", type=int, default=200, help="number of class prompts")
    parser.add_argument("--batch_size", type=int, default=16, help="images in a step")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each kind, after one that is not")
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast")
    parser.set_defaults(run=run)
