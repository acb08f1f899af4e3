"""What training cost, as far as a folder of weights tells: time, hardware, and measured emissions."""

import csv
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Emissions:
    """What codecarbon measured.

    Args:
        grams: CO2 equivalent.
        kilowatt_hours: Energy.
        country: Where; empty if not known.
        hardware: On what; empty if not known.
    """

    grams: float
    kilowatt_hours: float
    country: str = ""
    hardware: str = ""

    def as_metadata(self) -> dict[str, Any]:
        """The `co2_eq_emissions` of a card's metadata."""
        told = {"geographical_location": self.country, "hardware_used": self.hardware}
        measured = {"emissions": round(self.grams, 3), "source": "codecarbon"}
        return measured | {key: value for key, value in told.items() if value}


@dataclass(frozen=True)
class Cost:
    """What a run cost.

    Args:
        seconds: Of training since it was last started; `None` if not known.
        hardware: On what; `None` if not known.
        emissions: `None` if not measured.
    """

    seconds: float | None = None
    hardware: str | None = None
    emissions: Emissions | None = None


def read_cost(folder: str | Path, hardware: str | None = None) -> Cost:
    """What `trainer_state.json` and codecarbon's `emissions.csv` in a folder tell.

    Args:
        folder: Of the weights.
        hardware: That is on record for the weights.

    Raises:
        ValueError: If one of the files is there and is not what its name says.
    """
    state, emissions = Path(folder) / "trainer_state.json", Path(folder) / "emissions.csv"
    try:
        log = json.loads(state.read_text(encoding="utf-8"))["log_history"] if state.exists() else []
        found = _read_emissions(emissions) if emissions.exists() else None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: trainer_state.json or emissions.csv is damaged ({error}); remove it.") from error
    return Cost(train_seconds(log), hardware, found)


def train_seconds(log: list[dict[str, Any]]) -> float | None:
    """Seconds of training that a Trainer's log tells, `None` for training that did not end.

    >>> train_seconds([{"loss": 1.0}, {"train_runtime": 61.5}])
    61.5
    """
    return next((entry["train_runtime"] for entry in reversed(log) if "train_runtime" in entry), None)


def this_hardware(processes: int = 1) -> str:
    """The hardware that this process computes on, times the number of processes."""
    if torch.cuda.is_available():
        return f"{processes} x {torch.cuda.get_device_name()}"
    if torch.accelerator.is_available():
        return f"{processes} x {torch.accelerator.current_accelerator()}"
    return f"{os.cpu_count()} CPU cores ({_processor()}), no accelerator"


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _read_emissions(path: Path) -> Emissions:
    """All runs of the file together; codecarbon writes kilograms."""
    with path.open(newline="", encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    if not runs:
        raise ValueError("no run in emissions.csv")
    places = {run.get("country_name") or "" for run in runs}
    machines = {run.get("gpu_model") or run.get("cpu_model") or "" for run in runs}
    return Emissions(
        1000 * sum(float(run["emissions"]) for run in runs),
        sum(float(run["energy_consumed"]) for run in runs),
        ", ".join(sorted(places - {""})),
        ", ".join(sorted(machines - {""})),
    )
