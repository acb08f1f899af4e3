"""A Trainer of the tiny CLIP on tiny data."""

from pathlib import Path
from typing import Any

import pytest

from robust_clip import PGD, AdversarialTrainer, AdversarialTrainingArguments, RobustCLIPModel, TeCoA, ThreatModel
from tests.conftest import coloured_rows

ATTACK = {"attack": PGD(steps=2, step_size="1/255"), "threat_model": ThreatModel("linf", "4/255")}


def trainer_for(folder: Path, checkpoint: Path, processor: Any, objective: Any = None, **changes: Any) -> Any:
    arguments = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "max_steps": 5,
        "learning_rate": 0.1,
        "optim": "sgd",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    parts: dict[str, Any] = {"train_dataset": coloured_rows(48), "eval_dataset": coloured_rows(24, seed=1)}
    parts |= ATTACK if objective is None or objective.needs_attack else {}
    for name, value in changes.items():
        (arguments if name in AdversarialTrainingArguments.__dataclass_fields__ else parts)[name] = value
    return AdversarialTrainer(
        parts.pop("model", None) or RobustCLIPModel.from_pretrained(checkpoint),
        AdversarialTrainingArguments(**arguments),
        objective=objective or TeCoA(),
        processing_class=processor,
        **parts,
    )


@pytest.fixture
def make(tmp_path: Path, tiny_checkpoint: Path, tiny_processor: Any) -> Any:
    def build(objective: Any = None, **changes: Any) -> Any:
        return trainer_for(changes.pop("folder", tmp_path), tiny_checkpoint, tiny_processor, objective, **changes)

    return build
