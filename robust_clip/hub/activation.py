"""Which activation a checkpoint was trained with: weights do not say, and under the wrong one all goes on, worse."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from .architecture import VISION_PREFIXES

ACTIVATIONS = ("quick_gelu", "gelu")
# Two trainings from different starts are about 1.4 apart; robust fine-tuning moved nano_clip by 0.02 to 0.05.
_RELATED = 0.5
_CLEARLY = 2.0
_IMAGES = 4


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An image tower beside the clean one that it is said to come from.

    Args:
        moved: Distance of the weight matrices, as a share of the base's norm.
        base_act: Activation of the base.
        distances: For each activation of the tower, one minus the cosine between its features and the base's own,
            mean over fixed images; empty where the weights are not related.
    """

    moved: float
    base_act: str
    distances: dict[str, float]

    @property
    def related(self) -> bool:
        """Whether one was trained from the other."""
        return self.moved <= _RELATED

    @property
    def expected(self) -> str | None:
        """The activation that this speaks for; `None` where it speaks for none."""
        if not self.related:
            return None
        nearest, farthest = sorted(self.distances, key=self.distances.__getitem__)
        clear = self.distances[farthest] > _CLEARLY * self.distances[nearest]
        return nearest if clear else self.base_act

    def __str__(self) -> str:
        features = ", ".join(f"{distance:.2g} under {act}" for act, distance in sorted(self.distances.items()))
        return f"its weights moved by {self.moved:.2g} from a base with {self.base_act}; its features by {features}"


def compare_towers(
    weights: Mapping[str, Tensor],
    fields: Mapping[str, Any],
    base_weights: Mapping[str, Tensor],
    base_fields: Mapping[str, Any],
) -> Comparison:
    """Compares an image tower with the clean one of the same shape, by weights and by a forward pass.

    What can be decided. That the tower was trained from this base, by the distance of the weights: then the base's
    text tower belongs to it. And, if training kept the activation of the weights that it began with, the base's
    activation is the right one. Where the features are clearly nearer (by a factor of two) to the base's under the
    other one, they overrule that: so looks a tower that was taught the base's features under another activation.

    What cannot. The features alone: swapping GELU for QuickGELU moved those of nano_clip (width 128, depth 6) by 4e-4
    in cosine, TeCoA's training by 0.4. A supervised training that ran under another activation than its starting
    weights' leaves no trace that this would find. And nothing can be said of weights that have another origin.

    Args:
        weights: Of the tower and its projection, under the names of Hugging Face.
        fields: Of its `CLIPVisionConfig`; the activation is not read.
        base_weights: Of the base.
        base_fields: Of the base's `CLIPVisionConfig`.
    """
    matrices = [n for n, w in base_weights.items() if n.startswith(VISION_PREFIXES) and w.dim() > 1]
    apart = sum((weights[name].float() - base_weights[name].float()).square().sum().item() for name in matrices)
    norm = sum(base_weights[name].float().square().sum().item() for name in matrices)
    moved = (apart / max(norm, 1e-30)) ** 0.5
    base_act = str(base_fields["hidden_act"])
    if moved > _RELATED or base_act not in ACTIVATIONS:
        return Comparison(moved, base_act, {})
    side = fields["image_size"]
    generator = torch.Generator().manual_seed(0)
    coarse, fine = (torch.randn(_IMAGES, 3, size, size, generator=generator) for size in (7, side))
    images = F.interpolate(coarse, (side, side), mode="bicubic") + 0.1 * fine
    reference = _features(base_weights, dict(base_fields), images)
    distances = {}
    for act in ACTIVATIONS:
        features = _features(weights, {**fields, "hidden_act": act}, images)
        distances[act] = 1 - F.cosine_similarity(features, reference).mean().item()
    return Comparison(moved, base_act, distances)


@torch.no_grad()
def _features(weights: Mapping[str, Tensor], fields: dict[str, Any], images: Tensor) -> Tensor:
    tower = {name: weight.float() for name, weight in weights.items() if name.startswith(VISION_PREFIXES)}
    config = CLIPVisionConfig.from_dict(fields)
    model = CLIPVisionModelWithProjection.from_pretrained(None, config=config, state_dict=tower, dtype=torch.float32)
    return model.eval()(pixel_values=images).image_embeds.double()


def choose_activation(
    claims: Mapping[str, str], comparison: Comparison | None, source: str, *, trusted: bool
) -> tuple[str, str]:
    """The activation, and who says so.

    Args:
        claims: Who (`--hidden_act`, the checkpoint's config, the registry) says what, the most trusted first.
        comparison: With a clean base, if there is one.
        source: Named in errors.
        trusted: Whether the first claim is taken at its word, whatever contradicts it.

    Raises:
        ValueError: If nobody says, two contradict each other, or the comparison contradicts them.
    """
    for who, act in claims.items():
        if act not in ACTIVATIONS:
            raise ValueError(f"{source}: {who} gives the activation {act!r}; allowed are {', '.join(ACTIVATIONS)}.")
    expected = comparison.expected if comparison is not None else None
    if not claims:
        told = f" Compared with the base, {comparison}, so it is likely {expected}." if expected else ""
        raise ValueError(
            f"{source} does not say which activation it was trained with, and its weights do not show it: give "
            f"--hidden_act quick_gelu (OpenAI's models and what was trained from them) or gelu (LAION's).{told}"
        )
    (who, act), *others = claims.items()
    contradictions = [f"{other} says {said}" for other, said in others if said != act]
    if expected not in (None, act):
        contradictions.append(f"the comparison with the base says {expected} ({comparison})")
    if contradictions and not trusted:
        raise ValueError(
            f"{source}: the activation is {act} by {who}, but {' and '.join(contradictions)}. If you know that it is "
            "right, give it by --hidden_act together with --unchecked."
        )
    return act, who
