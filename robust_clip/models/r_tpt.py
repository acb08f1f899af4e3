"""Robust test-time prompt tuning: for every image a text context of its own, and a vote of reliable views."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from robust_clip.paper import Paper

from .image_views import random_views
from .prompt_sizes import PromptSizes
from .prompted import CONTEXT_TEMPLATE, PromptedCLIPModel
from .test_time import DefendedClassifier, Draws, Passes, TestTimeDefence
from .zero_shot import ZeroShotClassifier, fill_templates, pool_templates, tokenize

_CONTEXT = "text_model.embeddings.context"


@dataclass(frozen=True, kw_only=True)
class RTPT(TestTimeDefence):
    """Robust test-time prompt tuning, R-TPT (https://huggingface.co/papers/2504.11195).

    Of every image there are `views` random views besides itself, see `image_views`. From the same start for each
    image, a learned context takes `steps` steps of AdamW that lower the mean entropy of single views, which leaves out
    the marginal entropy of TPT, over the `share` of views whose entropy is lowest at the start. Then all views vote:

        logits = sum_i w_i z_i,  w = softmax(r / temperature),  r_i = mean of the largest `neighbours` of cos(v_i, v_j)

    with z_i the logits of view i under the tuned context and v_i its features from the image tower. Defaults are those
    of the authors' code, where AdamW has PyTorch's weight decay of 0.01. There a view's cosine with itself is left out
    as one that is not below 1, here by its place. The authors round attacked images to 8 bits first; here nothing is
    rounded. Prompts are `context`, name, full stop, whatever templates the undefended classifier uses.

    What an attacker who knows can do: gradients flow through views, features, weights and logits; the tuned class
    embeddings are held constant, although they depend on the image through the step of AdamW. Views are averaged over.

    Args:
        views: Besides the image itself.
        share: Of the views that the context is tuned on, in (0, 1], rounded down, but at least one view.
        learning_rate: Of AdamW.
        steps: Of AdamW; at 0 there is the vote alone.
        neighbours: Most similar views that the reliability of a view is the mean over.
        temperature: Of the weights of views.
        context: Words that the context starts from.
        augmix: Whether views are mixed by AugMix, as the authors do but on ImageNet and its variants, or only cropped.

    Raises:
        ValueError: If a value is out of range.
    """

    paper: ClassVar[Paper] = Paper(
        title="R-TPT: Improving Adversarial Robustness of Vision-Language Models through Test-Time Prompt Tuning",
        arxiv_id="2504.11195",
        bibtex="""@inproceedings{sheng2025rtpt,
  title = {{R-TPT}: Improving Adversarial Robustness of Vision-Language Models through Test-Time Prompt Tuning},
  author = {Sheng, Lijun and Liang, Jian and Wang, Zilei and He, Ran},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2025},
  eprint = {2504.11195},
  archivePrefix = {arXiv}
}""",
    )
    short_name: ClassVar[str] = "r_tpt"

    views: int = 63
    share: float = 0.1
    learning_rate: float = 5e-3
    steps: int = 1
    neighbours: int = 20
    temperature: float = 0.01
    context: str = "a photo of a"
    augmix: bool = True

    def __post_init__(self) -> None:
        """Check the fields."""
        for name, least in (("views", 1), ("steps", 0), ("neighbours", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} of R-TPT must be a whole number from {least} on, got {value!r}")
        if self.neighbours > self.views:
            raise ValueError(f"a view has {self.views} others, so neighbours cannot be {self.neighbours}; take fewer")
        if not 0 < self.share <= 1:
            raise ValueError(f"share of R-TPT must be in (0, 1], got {self.share}")
        for name in ("learning_rate", "temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} of R-TPT must be above 0, got {getattr(self, name)}")
        if not self.context.strip():
            raise ValueError("context of R-TPT needs words to start from, such as 'a photo of a'")

    @property
    def random(self) -> bool:
        """Always: views are drawn."""
        return True

    def passes(self, n_classes: int) -> Passes:
        """All views through the image tower, and every class prompt through the text tower before and after tuning."""
        return Passes(1 + self.views, 0, (1 + self.steps) * n_classes, self.steps * n_classes)

    def wrap(
        self, classifier: ZeroShotClassifier, tokenizer: Any, class_names: Sequence[str], draws: Draws
    ) -> "PromptTuningClassifier":
        """As `TestTimeDefence`; a model with prompts or an adapter of its own is refused."""
        return PromptTuningClassifier(self, classifier, tokenizer, class_names, draws)


class PromptTuningClassifier(DefendedClassifier):
    """A zero-shot classifier behind `RTPT`, image by image.

    Args:
        defence: With its parameters.
        classifier: What is defended: its image tower and temperature.
        tokenizer: Of its model.
        class_names: C names.
        draws: Of the views.
    """

    def __init__(
        self,
        defence: RTPT,
        classifier: ZeroShotClassifier,
        tokenizer: Any,
        class_names: Sequence[str],
        draws: Draws,
    ) -> None:
        super().__init__(classifier, draws)
        self.defence = defence
        model: Any = classifier.model
        words = torch.tensor(tokenizer(defence.context)["input_ids"][1:-1], device=model.device)
        self.prompted = PromptedCLIPModel.around(model, PromptSizes(context=len(words)))
        self.start = model.text_model.embeddings.token_embedding.weight[words].detach()[None].clone()
        self.texts = tokenize(tokenizer, fill_templates(class_names, [CONTEXT_TEMPLATE]), model.device)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits `(B, C)`: the vote of each image's views; the tuned context is a constant in the backward pass."""
        originals, generators = self.classifier.embed(pixels), self.draws(pixels)
        votes = [self._vote(*sample) for sample in zip(pixels, originals, generators, strict=True)]
        return torch.stack(votes)

    def tune(self, embeds: Tensor) -> Tensor:
        """Class embeddings `(C, D)` under the context tuned to views `embeds` `(V, D)` of unit norm; no gradient."""
        with torch.inference_mode(False), torch.enable_grad():
            views = embeds.detach().clone()
            context = nn.Parameter(self.start.clone())
            optimizer = torch.optim.AdamW([context], lr=self.defence.learning_rate)
            chosen: Any = slice(None)
            for step in range(self.defence.steps):
                entropies = entropy(self._logits(views, self._class_embeds(context))[chosen])
                if step == 0:
                    count = max(1, int(len(views) * self.defence.share))
                    chosen = entropies.detach().argsort(stable=True)[:count]
                    entropies = entropies[chosen]
                (context.grad,) = torch.autograd.grad(entropies.mean(), [context])
                optimizer.step()
            with torch.no_grad():
                return self._class_embeds(context)

    def _vote(self, image: Tensor, original: Tensor, generator: torch.Generator) -> Tensor:
        """Logits `(C,)` of one image with features `original`."""
        side = self.prompted.image_size
        views = random_views(image, self.defence.views, side, generator, self.defence.augmix)
        embeds = F.normalize(torch.cat([original[None], self.classifier.embed(views)]), dim=-1)
        logits = self._logits(embeds, self.tune(embeds))
        return reliabilities(embeds, self.defence.neighbours, self.defence.temperature) @ logits

    def _class_embeds(self, context: Tensor) -> Tensor:
        def encode(model: PromptedCLIPModel) -> Tensor:
            return model.encode_text(**self.texts)

        features = functional_call(self.prompted, {_CONTEXT: context}, kwargs={"compute": encode})
        return pool_templates(features, len(features))

    def _logits(self, embeds: Tensor, class_embeds: Tensor) -> Tensor:
        temperature = self.classifier.temperature
        scale = 1 / temperature if temperature else self.prompted.logit_scale.detach().float().exp()
        with torch.autocast(embeds.device.type, enabled=False):  # as the undefended classifier
            return scale * embeds @ class_embeds.T


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax of logits `(V, C)`, `(V,)`, in nats.

    >>> round(entropy(torch.zeros(1, 4)).item(), 4)
    1.3863
    """
    logs = logits.log_softmax(dim=-1)
    return -(logs.exp() * logs).sum(dim=-1)


def reliabilities(embeds: Tensor, neighbours: int, temperature: float) -> Tensor:
    """Weights of views by how alike they are to their nearest: positive, of sum 1.

    Args:
        embeds: `(V, D)`, unit norm.
        neighbours: How many of the other views count.
        temperature: Of the softmax over views.

    Example:
        >>> views = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> [round(weight, 4) for weight in reliabilities(views, 1, 0.5).tolist()]
        [0.4683, 0.4683, 0.0634]
    """
    with torch.autocast(embeds.device.type, enabled=False):
        cosines = embeds @ embeds.T
    own = torch.eye(len(embeds), dtype=torch.bool, device=embeds.device)
    nearest = cosines.masked_fill(own, -torch.inf).topk(neighbours, dim=-1).values
    return torch.softmax(nearest.mean(dim=-1) / temperature, dim=0)
