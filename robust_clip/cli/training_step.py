"""One training step as the Trainer takes it: its time, its memory, and the least that it can cost."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.utils import patch_environment, tqdm

from robust_clip.adaptation import ADAPTATIONS, Adaptation
from robust_clip.attacks import TEXT_ATTACKS
from robust_clip.data import ImageDataset
from robust_clip.evaluation.records import OURS, library_versions
from robust_clip.models import embed_texts, fill_templates, load_checkpoint
from robust_clip.models.scratch import build_clip
from robust_clip.objectives import OBJECTIVES, Clean, Objective
from robust_clip.threat_model import ThreatModel
from robust_clip.training import AdversarialTrainer, AdversarialTrainingArguments

from .recipe import choose, choose_attack, read_section
from .step_cost import NO_ATTACK, StepCost
from .step_floor import gradient_pass, step_floor

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


def measure(args: argparse.Namespace) -> StepCost:
    """What the step costs that the options of `robust-clip benchmark` name."""
    objective, attack = OBJECTIVES[args.objective](), choose_attack(args.attack, args.steps, pgd_steps=2)
    times, gradient_passes = _step_times(args, objective)
    clean_s, own_s, text_s, prompts_s, text_attack_s = map(statistics.median, zip(*times, strict=True))
    clean, own = _memory(args, "clean"), _memory(args, args.objective, args.adaptation)
    steps = f"{args.attack} with {attack.steps} step(s)" if hasattr(attack, "steps") else args.attack
    return StepCost(
        model=Path(args.model).name,
        objective=args.objective,
        attack=steps if objective.needs_attack else NO_ATTACK,
        text_attack=args.text_attack if objective.needs_text_attack else None,
        adaptation=args.adaptation,
        classes=args.classes,
        batch_size=args.batch_size,
        device=_device(),
        precision="bf16" if args.bf16 else "fp32",
        repeats=args.repeats,
        version=library_versions()[OURS],
        clean_seconds=clean_s,
        seconds=own_s,
        text_attack_seconds=text_attack_s,
        ratio=statistics.median((own - attacking) / clean for clean, own, _, _, attacking in times),
        floor=step_floor(objective, attack, text_s / clean_s, prompts_s / clean_s, **gradient_passes),
        clean_peak_mib=clean.peak_mib,
        peak_mib=own.peak_mib,
        learning=own.learning,
        saved_bytes=own.saved_bytes,
    )


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"


def _step_times(
    args: argparse.Namespace, objective: Objective
) -> tuple[list[tuple[float, ...]], dict[str, float]]:
    """Seconds of a clean step, the objective's, a pass of its texts, one of all prompts, and its attack on texts.

    Whatever else slows the machine then slows all of them. Beside them what `step_floor` has to know of what learns.
    """
    times = []
    with tempfile.TemporaryDirectory(prefix="robust-clip-benchmark-") as folder:
        clean, own = Step(args, Clean(), folder), Step(args, objective, folder, _chosen(args.adaptation))
        parts = (clean, own, own.encode_texts, own.encode_prompts)
        for step in parts:  # the first is slower: memory is allocated, kernels are chosen
            step()
        for _ in tqdm(range(args.repeats), desc="timed steps"):
            attacking = own.text_attack_seconds
            seconds = tuple(_timed(step) for step in parts)
            times.append((*seconds, own.text_attack_seconds - attacking))
        towers = {"image_gradient": "vision", "text_gradient": "text"}
        return times, {name: gradient_pass(own.model, tower) for name, tower in towers.items()}


def check_adaptation(args: argparse.Namespace) -> None:
    """Refuses an adaptation that does not exist, before anything is measured."""
    _chosen(args.adaptation)


def _chosen(adaptation: str | None) -> Adaptation | None:
    return choose("adaptation", ADAPTATIONS, read_section("adaptation", adaptation)) if adaptation else None


class Step:
    """One whole training step of the Trainer, optimiser included, on a fixed random batch.

    Args:
        args: Of the command.
        objective: What is trained.
        folder: For the Trainer's use.
        adaptation: What learns; by default the objective's towers.
    """

    def __init__(
        self, args: argparse.Namespace, objective: Objective, folder: str, adaptation: Adaptation | None = None
    ) -> None:
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
            adaptation=adaptation,
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


@dataclass(frozen=True)
class Memory:
    """Of a process that took two steps: its peak, the weights that learned, and what they take up when saved."""

    peak_mib: float
    learning: int
    saved_bytes: int


def _memory(args: argparse.Namespace, objective: str, adaptation: str | None = None) -> Memory:
    """In a fresh process, whose peak is that of the steps and of nothing else."""
    # By itself glibc keeps what is freed, half of the peak here; it reads this when a process begins.
    fresh = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    with patch_environment(malloc_mmap_threshold_=2**16), fresh as pool:
        return pool.submit(_memory_of_two_steps, args, objective, adaptation).result()


def _memory_of_two_steps(args: argparse.Namespace, objective: str, adaptation: str | None) -> Memory:
    with tempfile.TemporaryDirectory(prefix="robust-clip-benchmark-") as folder:
        step = Step(args, OBJECTIVES[objective](), folder, _chosen(adaptation))
        step()
        step()
        peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else _resident_peak()
        step.trainer.save_model(f"{folder}/saved")
        saved = sum(path.stat().st_size for path in Path(folder, "saved").rglob("*.safetensors"))
    learning = sum(parameter.numel() for parameter in step.model.parameters() if parameter.requires_grad)
    return Memory(peak, learning, saved)


def _resident_peak() -> float:
    """Most memory that this process has had resident, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux lets `ru_maxrss` begin with what the parent had, which is far more here.
        return int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())[0]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
