"""Sanity checks: what a broken evaluation looks like, found before a reader finds it.

A check returns a sentence for what it found wrong, or None. What must never happen is counted. A share that may be
small is too large only if its whole 95 % Wilson interval is: of few images, one is a large share. `quick_checks` cost
a few passes over a few images and are part of every evaluation that attacks; `battery` attacks these images again and
again and is asked for.

Sources: the checks of AutoAttack (https://huggingface.co/papers/2003.01690) but for its search for optimisation at
test time, which here is named by whom it concerns (`test_time_defence`); those of Carlini et al., "On Evaluating
Adversarial Robustness" (https://huggingface.co/papers/1902.06705, Section 5), and Athalye et al., "Obfuscated
Gradients" (https://huggingface.co/papers/1802.00420, Section 3.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate.utils import tqdm
from torch import Tensor

from robust_clip.attacks import AttackRun, CrossEntropy, input_gradient, sample_generators
from robust_clip.attacks.losses import are_probabilities
from robust_clip.threat_model import ThreatModel

from .bench import Bench, numerics
from .metrics import wilson_interval
from .protocol import Protocol
from .records import Sample

# Broken images beyond which a difference between two attacks is no longer one image's rounding.
_CHANCE = 1


@dataclass(frozen=True, eq=False)
class Probe:
    """A few images, and the bench that they are tried on.

    Args:
        bench: What attacks and judges.
        pixels: `(B, 3, H, W)` clean images.
        labels: `(B,)`.
        indices: Their rows in the split.
        seed: Of the evaluation.
        batch_size: Images in one forward pass.
    """

    bench: Bench
    pixels: Tensor
    labels: Tensor
    indices: Sequence[int]
    seed: int
    batch_size: int
    _stood: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)

    def clean(self) -> Tensor:
        """Which images are classified rightly, `(B,)`."""
        return self._right(self.pixels, attacked=False)

    def standing(self, run: AttackRun, threat_model: ThreatModel, batch_size: int | None = None) -> Tensor:
        """Which images are classified rightly, clean and after the attack, `(B,)`; each attack is run once."""
        asked = run, threat_model, batch_size or self.batch_size
        if asked not in self._stood:
            self._stood[asked] = self._attacked(*asked)
        return self._stood[asked]

    def _attacked(self, run: AttackRun, threat_model: ThreatModel, size: int) -> Tensor:
        adversarial = []
        for rows in torch.arange(len(self.pixels)).split(size):
            generators = sample_generators(self.seed, [self.indices[row] for row in rows.tolist()])
            with numerics(self.bench.protocol.precision, self.bench.device.type):
                adversarial.append(
                    self.bench.attack(
                        run, threat_model, self.pixels[rows], self.labels[rows], generators=generators, batch_size=size
                    )
                )
        return self.clean() & self._right(torch.cat(adversarial), attacked=True)

    def logits(self, pixels: Tensor, attacked: bool = False) -> Tensor:
        """Logits `(B, C)` in the precision of the protocol."""
        with torch.no_grad(), numerics(self.bench.protocol.precision, self.bench.device.type):
            return torch.cat([self.bench.logits(batch, attacked) for batch in pixels.split(self.batch_size)])

    def _right(self, pixels: Tensor, attacked: bool) -> Tensor:
        return self.logits(pixels, attacked).argmax(dim=1) == self.labels


def quick_checks(probe: Probe) -> list[str]:
    """What is wrong with the outputs and gradients of the classifier, at the cost of a few passes."""
    checks = (random_outputs, probabilities, dead_gradients)
    return [finding for check in checks if (finding := check(probe))]


def battery(probe: Probe) -> list[str]:
    """What is wrong with the first attack on images of the protocol, tried in many ways; none for attacks on texts."""
    protocol = probe.bench.protocol
    if not protocol.attacks or protocol.threat_model is None:
        return []
    run, threat_model = protocol.attacks[0], protocol.threat_model
    checks = (epsilon_zero, rises_with_epsilon, withstands_anything, more_steps, random_noise, batch_dependence)
    shown = tqdm(checks, desc="sanity checks", leave=False)
    return [finding for check in shown if (finding := check(probe, run, threat_model))]


def random_outputs(probe: Probe) -> str | None:
    """A model that draws lots: one gradient says little, and the number changes from run to run."""
    change = (probe.logits(probe.pixels) - probe.logits(probe.pixels)).abs().max().item()
    if change > 0:
        return f"the model is random: logits of the same images differ by up to {change:.2g}; use autoattack_rand"
    if probe.bench.seen is not None and any(run.eot_samples < 2 for run in probe.bench.protocol.knowing):
        seen = probe.bench.seen
        with torch.no_grad(), numerics(probe.bench.protocol.precision, probe.bench.device.type):
            change = (seen(probe.pixels) - seen(probe.pixels)).abs().max().item()
        if change > 0:
            return (
                "the defence is random, although it does not say so: what attacks see of the same images differs by "
                f"up to {change:.2g}; give them eot_samples"
            )
    return None


def probabilities(probe: Probe) -> str | None:
    """Outputs of a softmax, through which cross-entropy and the ratios of DLR have next to no gradient."""
    if are_probabilities(probe.logits(probe.pixels)):
        return "the outputs are probabilities, not logits: gradients vanish in them; leave the softmax out"
    return None


def dead_gradients(probe: Probe) -> str | None:
    """Gradients that are exactly zero: a masked gradient, or a cross-entropy saturated in float32."""
    sees = probe.bench.victim(next(iter(probe.bench.protocol.attacks), None)).classify
    with numerics(probe.bench.protocol.precision, probe.bench.device.type):
        try:
            gradient, _, _ = input_gradient(sees, probe.pixels, CrossEntropy(probe.labels))
        except ValueError:
            return "no gradient reaches the pixels: attacks that follow gradients are blind"
    dead = (gradient.flatten(1) == 0).float().mean(dim=1) > 0.9
    if dead.any():
        return (
            f"{int(dead.sum())} of {len(dead)} images have a gradient of cross-entropy that is zero at more than 90 % "
            "of their pixels: attacks on it are blind there; trust margin, DLR and black-box attacks"
        )
    return None


def epsilon_zero(probe: Probe, run: AttackRun, threat_model: ThreatModel) -> str | None:
    """With nothing allowed, exactly the images that are right clean must stand."""
    if probe.bench.protocol.text_attack:
        return None  # attacked prompts change what is right without any change of pixels
    different = int((probe.standing(run, ThreatModel(threat_model.norm, 0)) != probe.clean()).sum())
    return f"epsilon 0 differs from clean for {different} images" if different else None


def rises_with_epsilon(probe: Probe, run: AttackRun, threat_model: ThreatModel) -> str | None:
    """A larger ball holds the smaller one, so that fewer images stand."""
    sizes = [threat_model.epsilon * factor for factor in (0.5, 1, 2)]
    standing = [int(probe.standing(run, _sized(threat_model, size)).sum()) for size in sizes]
    if any(after > before + _CHANCE for before, after in zip(standing, standing[1:], strict=False)):
        return f"robust accuracy rises with epsilon: {standing} images stand at half, once and twice it"
    return None


def withstands_anything(probe: Probe, run: AttackRun, threat_model: ThreatModel) -> str | None:
    """With half of the whole range allowed, every image can be made grey, and none may stand."""
    everything = 0.5 if threat_model.norm == "linf" else 0.5 * probe.pixels[0].numel() ** 0.5
    standing = int(probe.standing(run, ThreatModel(threat_model.norm, everything)).sum())
    if standing > _CHANCE:
        images = f"{standing} of {len(probe.labels)} images"
        return f"{images} stand at epsilon {everything:.3g}: the attack is broken or blind"
    return None


def more_steps(probe: Probe, run: AttackRun, threat_model: ThreatModel) -> str | None:
    """Four times the steps or queries: if they break many more images, the attack was stopped too early."""
    attack: Any = run.attack
    unit = next((name for name in ("steps", "queries") if hasattr(attack, name)), None)
    if unit is None:
        return None
    count = getattr(attack, unit)
    longer = replace(run, attack=replace(attack, **{unit: 4 * count}))
    before, after = (int(probe.standing(each, threat_model).sum()) for each in (run, longer))
    outcome = f"{before} images stand after {count} {unit}, {after} after 4 times that"
    if after > before + _CHANCE:
        return f"more {unit} weaken the attack: {outcome}"
    if _beyond(before - after, len(probe.labels), 0.05):
        return f"too few {unit}: {outcome}"
    return None


def random_noise(probe: Probe, run: AttackRun, threat_model: ThreatModel) -> str | None:
    """Noise of the same size, without any search, must break fewer images than the attack."""
    noise = threat_model.random_start(probe.pixels, sample_generators(probe.seed, probe.indices))
    by_noise = probe.clean() & (probe.logits(noise, attacked=True).argmax(dim=1) == probe.labels)
    by_attack = probe.standing(run, threat_model)
    more = int((by_attack & ~by_noise).sum())
    if more > _CHANCE:
        return f"random noise of the same size breaks {more} images that stand up to the attack"
    return None


def batch_dependence(probe: Probe, run: AttackRun, threat_model: ThreatModel) -> str | None:
    """The same images in batches of another size must meet the same fate."""
    size = 1 if probe.batch_size > 1 else len(probe.labels)
    together, alone = probe.standing(run, threat_model), probe.standing(run, threat_model, size)
    different = int((together != alone).sum())
    if different:
        return f"the fate of {different} of {len(probe.labels)} images depends on the batch size"
    return None


def checked_samples(protocol: Protocol, samples: Sequence[Sample], hardened: bool) -> list[str]:
    """What the outcome itself gives away.

    Args:
        protocol: That was measured.
        samples: All of them, with what broke them.
        hardened: Whether the checkpoint has on record that it was trained against attacks.
    """
    findings = []
    blind = {name for name, run in zip(protocol.attack_names, protocol.stages, strict=True) if run and _black_box(run)}
    seeing = any(run and not _black_box(run) for run in protocol.stages)
    late = sum(sample.broken_by in blind for sample in samples)
    if seeing and _beyond(late, len(samples), 0.01):
        findings.append(f"a black-box attack breaks {late} images that stood up to gradients: they are masked")
    standing = sum(sample.robust for sample in samples)
    allowed = protocol.threat_model
    strong = allowed and allowed.norm == "linf" and allowed.epsilon >= 4 / 255
    if not hardened and strong and protocol.attacks and _beyond(standing, len(samples), 0.05):
        findings.append(
            f"{standing} of {len(samples)} images stand at {allowed} although the checkpoint does not say that it was "
            "trained against attacks: if it was not, the attack is too weak"
        )
    return findings


def _beyond(images: int, n: int, share: float) -> bool:
    """Whether more than a share of all images are beyond doubt of that kind, and more than chance explains.

    >>> _beyond(1, 16, 0.05), _beyond(2, 16, 0.05), _beyond(3, 16, 0.05), _beyond(51, 1000, 0.05)
    (False, False, True, False)
    """
    return images > _CHANCE and wilson_interval(images, n)[0] > share


def _black_box(run: AttackRun) -> bool:
    return run.attack.gradient_passes == 0


def _sized(threat_model: ThreatModel, size: float) -> ThreatModel:
    return ThreatModel(threat_model.norm, min(size, 1) if threat_model.norm == "linf" else size)
