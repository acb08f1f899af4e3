"""The objective that `robust-clip evaluate` adapts attacks to, as a recipe writes it, and its teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robust_clip.attacks import AttackLoss, Forward, InnerProblem
from robust_clip.evaluation import checkpoint_revision
from robust_clip.evaluation.adaptive import InnerProblemMaker
from robust_clip.models import RobustCLIPModel, load_checkpoint, packaged_checkpoint
from robust_clip.objectives import OBJECTIVES, Objective, adaptive_problem
from robust_clip.objectives.base import clean_teacher_features
from robust_clip.training.batches import BatchMaker

from .recipe import choose, read_section


@dataclass(frozen=True, eq=False)
class Defence:
    """A training objective whose loss attacks climb.

    Args:
        name: Key of `OBJECTIVES`.
        objective: With its parameters.
        teacher: The frozen original, where the objective compares with one.
        description: Objective, parameters and teacher, for the row.
    """

    name: str
    objective: Objective
    teacher: RobustCLIPModel | None
    description: str

    @classmethod
    def read(cls, text: str, teacher: str | None) -> "Defence":
        """The objective that the command line names.

        Args:
            text: What a recipe writes after `objective:`, a name or a mapping.
            teacher: Directory or Hub id of the frozen original.

        Raises:
            ValueError: If there is no such objective, its loss does not depend on an attacked image alone, or it needs
                a teacher and has none or the other way round.
        """
        settings = read_section("objective", text)
        objective: Objective = choose("objective", OBJECTIVES, settings)
        name = type(objective).__name__
        reasons = {
            "contrasts captions": objective.needs_captions,
            "contrasts images": objective.compares_samples,
            "does not look at attacked images": not objective.needs_attack,
        }
        if why := next((reason for reason, holds in reasons.items() if holds), None):
            raise ValueError(f"{name} {why}, so no image has a loss of its own to climb; give another objective")
        if objective.needs_teacher and teacher is None:
            raise ValueError(f"{name} compares with the checkpoint that training began from: give it as --teacher")
        if teacher is None:
            return cls(settings["name"], objective, None, repr(objective))
        if not objective.needs_teacher:
            raise ValueError(f"{name} has no use for a teacher, got {teacher!r}; leave --teacher out")
        model = load_checkpoint(teacher)[0].eval().requires_grad_(False)
        revision = checkpoint_revision(packaged_checkpoint(teacher), model)
        original = Path(teacher).resolve().name if Path(teacher).is_dir() else teacher
        return cls(settings["name"], objective, model, f"{objective!r}, teacher {original} ({revision})")

    def inner_problem(self, model: RobustCLIPModel, tokenizer: Any) -> InnerProblemMaker:
        """What attacks on `model` see and climb, by class names and templates."""
        movable: Any = self.teacher
        teacher: RobustCLIPModel | None = movable.to(model.device) if movable is not None else None

        def adapted(class_names: Sequence[str], templates: Sequence[str]) -> InnerProblem:
            batches = BatchMaker(self.objective, tokenizer, class_names, templates, attacked=True)
            batches.remember(teacher or model)

            def problem(pixels: Tensor, labels: Tensor) -> tuple[Forward, AttackLoss]:
                batch = batches.make(model, teacher, {"pixels": pixels, "labels": labels}, step=0)
                if teacher is not None and "vision" in self.objective.teacher_towers:
                    # Once for all steps, and image by image, so that no image depends on its company.
                    rows = torch.arange(len(pixels), device=pixels.device).split(1)
                    batch.teacher_features = torch.cat([clean_teacher_features(teacher, batch[row]) for row in rows])
                return adaptive_problem(self.objective, model, teacher, batch)

            return problem

        return adapted
