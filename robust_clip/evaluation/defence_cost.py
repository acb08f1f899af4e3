"""What a test-time defence costs, beside the undefended classifier."""

import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from .bench import Bench, numerics

# Enough for a full batch of rows, few enough for a defence that views every image 64 times.
MOST_IMAGES = 8


def measure(bench: Bench, batch_size: int) -> dict[str, Any] | None:
    """Passes of the towers for one image, by count, and seconds for it, by the clock; `None` without a defence.

    Noise of the model's own size is judged, since the defences do the same whatever they see; the faster of two
    tries counts.

    Args:
        bench: What judges.
        batch_size: Images at once, at most 8.
    """
    defence = bench.protocol.test_time_defence
    if defence is None or bench.defended is None:
        return None
    side: Any = bench.classifier.model.image_size
    images = min(batch_size, MOST_IMAGES)
    pixels = torch.rand(images, 3, side, side, generator=torch.Generator().manual_seed(0)).to(bench.device)
    with torch.no_grad(), numerics(bench.protocol.precision, bench.device.type):
        seconds, undefended = (_seconds(judge, pixels) / images for judge in (bench.defended, bench.classifier))
    return {
        "passes": asdict(defence.passes(len(bench.classifier.class_embeds))),
        "seconds_per_image": seconds,
        "undefended_seconds_per_image": undefended,
        "images_at_once": images,
        "device": bench.device.type,
    }


def sentence(cost: dict[str, Any]) -> str:
    """What `measure` found, as tables print it.

    >>> passes = {"image_forward": 4, "image_backward": 2, "text_forward": 0, "text_backward": 0}
    >>> seconds = {"seconds_per_image": 0.05, "undefended_seconds_per_image": 0.01}
    >>> sentence({"passes": passes, **seconds, "images_at_once": 8, "device": "cpu"})
    'one image takes 4 image forward, 2 image backward passes, 50 ms beside 10 ms undefended (5.0 times), cpu'
    """
    passes = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in cost["passes"].items() if count)
    defended, plain = cost["seconds_per_image"], cost["undefended_seconds_per_image"]
    times = f"{1000 * defended:.3g} ms beside {1000 * plain:.3g} ms undefended ({defended / plain:.1f} times)"
    return f"one image takes {passes} passes, {times}, {cost['device']}"


def _seconds(judge: nn.Module, pixels: Tensor) -> float:
    """Wall time of the faster of two forward passes."""
    spent = []
    for _ in range(2):
        start = time.perf_counter()
        judge(pixels).sum().item()  # which waits for the device
        spent.append(time.perf_counter() - start)
    return min(spent)
