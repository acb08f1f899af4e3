"""Test-time counterattacks: an image is pushed away from where an attacker may have left it, then classified."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robust_clip.paper import Paper
from robust_clip.threat_model import ThreatModel, parse_size

from .test_time import DefendedClassifier, Draws, Passes, TestTimeDefence
from .zero_shot import ZeroShotClassifier


@dataclass(frozen=True, kw_only=True)
class TTC(TestTimeDefence):
    """Test-time counterattack, TTC (https://huggingface.co/papers/2503.03613).

    With f the un-normalised image features, x the image and every iterate clipped to the box [0, 1]:

        d_0 ~ U(-epsilon, epsilon) for each pixel
        d_{k+1} = clip(d_k + step_size * sign(gradient of |f(x + d_k) - f(x)|^2), -epsilon, epsilon)
        ratio = |f(x + d_0) - f(x)| / |f(x)|
        d = sum_k w_k d_k with w_k = exp(beta k) / sum_j exp(beta j)   if ratio < threshold, else d = d_0

    and x + d is classified. A small ratio is taken for a sign of an attack: features of attacked images hardly move
    under noise. All defaults are those of the authors' code.

    What an attacker who knows can do: d changes with x only by signs, by the threshold and at the faces of the box, so
    that its derivative is zero almost everywhere, and the gradient of the defended logits is their gradient at x + d
    with d held constant. This is what the forward pass here gives to an attack (straight through, and at the faces of
    the box, too). What that gradient does not tell are the jumps of d, and the noise, which is averaged over.

    Args:
        epsilon: Radius of the counterattack in linf, in pixel units.
        steps: Of the counterattack; at 0 there is the noise alone.
        step_size: In pixel units.
        threshold: Ratio from which on there is the noise alone.
        beta: How much more later iterates count.

    Raises:
        ValueError: If a size is out of range or `steps` is no whole number from 0 on.
    """

    paper: ClassVar[Paper] = Paper(
        title=(
            "CLIP is Strong Enough to Fight Back: Test-time Counterattacks towards Zero-shot Adversarial Robustness "
            "of CLIP"
        ),
        arxiv_id="2503.03613",
        bibtex="""@inproceedings{xing2025clip,
  title = {{CLIP} is Strong Enough to Fight Back: Test-time Counterattacks towards Zero-shot Adversarial Robustness of
    {CLIP}},
  author = {Xing, Songlong and Zhao, Zhengyu and Sebe, Nicu},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2025},
  eprint = {2503.03613},
  archivePrefix = {arXiv}
}""",
    )
    short_name: ClassVar[str] = "ttc"

    epsilon: float | str = "4/255"
    steps: int = 2
    step_size: float | str = "1/255"
    threshold: float = 0.2
    beta: float = 2.0

    def __post_init__(self) -> None:
        """Check the fields and read the sizes."""
        object.__setattr__(self, "epsilon", ThreatModel("linf", self.epsilon).epsilon)
        object.__setattr__(self, "step_size", ThreatModel("linf", self.step_size).epsilon)
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 0:
            raise ValueError(f"steps of TTC must be a whole number from 0 on, got {self.steps!r}")
        if self.threshold < 0:
            raise ValueError(f"threshold of TTC must not be negative, got {self.threshold}; 0 leaves the noise alone")

    @property
    def random(self) -> bool:
        """Unless there is no noise."""
        return parse_size(self.epsilon) > 0

    def passes(self, n_classes: int) -> Passes:
        """The clean features, a forward and a backward pass for each step, and the answer."""
        return Passes(image_forward=2 + self.steps if self.steps else 1, image_backward=self.steps)

    def wrap(
        self, classifier: ZeroShotClassifier, tokenizer: Any, class_names: Sequence[str], draws: Draws
    ) -> "CounterattackingClassifier":
        """As `TestTimeDefence`; tokenizer and names are not needed."""
        return CounterattackingClassifier(self, classifier, draws)


class CounterattackingClassifier(DefendedClassifier):
    """A zero-shot classifier behind `TTC`.

    Args:
        defence: With its parameters.
        classifier: What is defended.
        draws: Of the noise.
    """

    def __init__(self, defence: TTC, classifier: ZeroShotClassifier, draws: Draws) -> None:
        super().__init__(classifier, draws)
        self.defence = defence

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits `(B, C)` of the counterattacked images; the counterattack is a constant in the backward pass."""
        logits: Tensor = self.classifier(pixels + self.counterattack(pixels))
        return logits

    def counterattack(self, pixels: Tensor) -> Tensor:
        """The change d of each image, `(B, 3, H, W)`, without gradient."""
        defence, ball = self.defence, ThreatModel("linf", self.defence.epsilon)
        with torch.inference_mode(False), torch.enable_grad():
            clean = pixels.detach().clone()
            iterates = [ball.random_start(clean, self.draws(clean))]
            if not defence.steps:
                return iterates[0] - clean
            with torch.no_grad():
                reference = self.classifier.embed(clean)
            ratio = torch.zeros_like(reference[:, 0])
            for step in range(defence.steps):
                iterate = iterates[-1].requires_grad_()
                moved = self.classifier.embed(iterate) - reference
                (gradient,) = torch.autograd.grad(moved.square().sum(), iterate)
                if step == 0:
                    ratio = moved.detach().norm(dim=1) / reference.norm(dim=1)
                ahead = iterate.detach() + ball.step(gradient, parse_size(defence.step_size))
                iterates.append(ball.project(ahead, clean))
            changes = torch.stack([iterate.detach() - clean for iterate in iterates], dim=1)
            weights = torch.softmax(defence.beta * torch.arange(len(iterates)).to(changes), dim=0)
            mixed = (weights.view(-1, 1, 1, 1) * changes).sum(dim=1)
            return torch.where((ratio < defence.threshold).view(-1, 1, 1, 1), mixed, changes[:, 0])
