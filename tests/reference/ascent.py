"""Where an ascent must end, and a loss under which none ends early."""

import dataclasses

import numpy as np

from robust_clip.attacks.losses import AttackLoss


def best_change(direction, pixels, threat_model):
    """Maximum of `<direction, change>` over ball and box in float64: clip(t d, -x, 1 - x), t as the ball allows."""
    if threat_model.norm == "linf":
        return np.clip(threat_model.epsilon * np.sign(direction), -pixels, 1 - pixels)
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        inside = np.linalg.norm(np.clip(middle * direction, -pixels, 1 - pixels)) <= threat_model.epsilon
        low, high = (middle, high) if inside else (low, middle)
    return np.clip(low * direction, -pixels, 1 - pixels)


@dataclasses.dataclass(frozen=True, eq=False)
class Unlabelled(AttackLoss):
    """A loss that calls nothing fooled, so that no sample leaves."""

    loss: AttackLoss

    def __call__(self, outputs):
        return self.loss(outputs)

    def __getitem__(self, kept):
        return Unlabelled(self.loss[kept])
