"""Zero-shot classification: a CLIP model and class embeddings as one function from pixels to logits."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .modeling import RobustCLIPModel


class ZeroShotClassifier(nn.Module):
    """The function that attacks see: pixels in [0, 1] to temperature-scaled cosines with each class.

    Args:
        model: The CLIP model, or a distributed wrapper around it; it is called, never changed.
        class_embeds: `(C, D)`, unit norm, one row per class.
        batch_multiple: Batches are filled up to a multiple of this with copies of their last image, whose logits are
            dropped. Matrix kernels round differently for different row counts; on CPU all multiples of 8 agree to
            the bit, so evaluation uses 8 and its numbers do not depend on the batch size.
        temperature: What cosines are divided by, in place of the checkpoint's `exp(-logit_scale)`, above 0.

    Raises:
        ValueError: If the temperature is not positive.
    """

    class_embeds: Tensor

    def __init__(
        self, model: nn.Module, class_embeds: Tensor, batch_multiple: int = 1, temperature: float | None = None
    ) -> None:
        super().__init__()
        if temperature is not None and temperature <= 0:
            raise ValueError(f"temperature must be above 0, such as CLIP's 0.01, got {temperature}")
        self.model = model
        self.batch_multiple = batch_multiple
        self.temperature = temperature
        self.register_buffer("class_embeds", class_embeds, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits `(B, C)` in fp32, `exp(logit_scale) * cos`, of `pixels` `(B, 3, H, W)` in [0, 1]."""
        return self._padded(self._logits, pixels)

    def embed(self, pixels: Tensor) -> Tensor:
        """Un-normalised image features `(B, D)` in fp32 of `pixels` `(B, 3, H, W)`, for losses on embeddings."""
        return self._padded(self._features, pixels)

    def _padded(self, compute: Callable[..., Tensor], pixels: Tensor) -> Tensor:
        missing = -len(pixels) % self.batch_multiple
        padded = torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)]) if missing else pixels
        return self.model(compute=partial(compute, pixels=padded))[: len(pixels)]

    @staticmethod
    def _features(model: RobustCLIPModel, pixels: Tensor) -> Tensor:
        return model.encode_image(pixels).float()

    def _logits(self, model: RobustCLIPModel, pixels: Tensor) -> Tensor:
        image_features = model.encode_image(pixels)
        # Autocast would multiply in half precision, whose steps near a logit of 30 are an eighth.
        with torch.autocast(image_features.device.type, enabled=False):
            image_embeds = F.normalize(image_features.float(), dim=-1)
            scale = 1 / self.temperature if self.temperature else model.logit_scale.detach().float().exp()
            return scale * image_embeds @ self.class_embeds.float().T


logger = logging.getLogger(__name__)


def fill_templates(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template filled with every class name, class by class.

    >>> fill_templates(["cat", "dog"], ["a {}.", "one {}"])
    ['a cat.', 'one cat', 'a dog.', 'one dog']

    Raises:
        ValueError: If there are no names or templates, a name is not a string, or a template has no `{}`.
    """
    if not class_names or not templates:
        raise ValueError(f"Need class names and templates, got {len(class_names)} and {len(templates)}.")
    for name in class_names:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"Class names must be non-empty strings, got {name!r}; quote it in the recipe.")
    for template in templates:
        if not isinstance(template, str) or "{}" not in template:
            raise ValueError(f"A template needs a {{}} where the class name goes, got {template!r}.")
    return [template.replace("{}", name) for name in class_names for template in templates]


def tokenize(tokenizer: Any, texts: Sequence[str], device: torch.device | str) -> dict[str, Tensor]:
    """Token ids `(N, L)` and attention mask, padded to the longest text and cut at the tokenizer's context length."""
    tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    return {name: tokens[name].to(device) for name in ("input_ids", "attention_mask")}


def warn_of_cut_texts(tokenizer: Any, texts: Sequence[str], kind: str) -> int:
    """How many texts are cut at CLIP's context length, said once: what two of them differ in may lie behind the cut.

    Args:
        tokenizer: The tokenizer of the model.
        texts: All of them.
        kind: What the warning calls them.
    """
    most = tokenizer.model_max_length
    long = [text for text, ids in zip(texts, tokenizer(list(texts))["input_ids"], strict=True) if len(ids) > most]
    if long:
        logger.warning("%d %s are cut at %d tokens, the first is %r", len(long), kind, most, long[0])
    return len(long)


def pool_templates(text_features: Tensor, n_classes: int) -> Tensor:
    """One unit-norm embedding per class, `(C, D)`: the mean over its templates' unit embeddings, renormalised.

    >>> pool_templates(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), 1)
    tensor([[0.7071, 0.7071]])
    """
    embeds = F.normalize(text_features.float(), dim=-1).view(n_classes, -1, text_features.shape[-1])
    return F.normalize(embeds.mean(dim=1), dim=-1)


def embed_classes(
    model: RobustCLIPModel, tokenizer: Any, class_names: Sequence[str], templates: Sequence[str], batch_size: int = 512
) -> Tensor:
    """Class embeddings `(C, D)`, unit norm and without gradient, of `class_names` under `templates`.

    Args:
        model: Left in the modes that it was in; its text tower runs in eval mode.
        tokenizer: The tokenizer of the model.
        class_names: C names.
        templates: Sentences with `{}` for the name; a class's embedding is their mean, renormalised.
        batch_size: Prompts in one forward pass.

    Raises:
        ValueError: As `fill_templates`.
    """
    prompts = fill_templates(class_names, templates)
    return pool_templates(embed_texts(model, tokenizer, prompts, batch_size), len(class_names))


@torch.no_grad()
def embed_texts(model: RobustCLIPModel, tokenizer: Any, texts: Sequence[str], batch_size: int = 512) -> Tensor:
    """Un-normalised text features `(N, D)`, without gradient, in eval mode, `batch_size` texts at once.

    Texts longer than the tokenizer's context are cut there, as CLIP does.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        batches = (texts[start : start + batch_size] for start in range(0, len(texts), batch_size))
        return torch.cat([model.encode_text(**tokenize(tokenizer, batch, model.device)) for batch in batches])
    finally:
        for module, mode in modes:
            module.training = mode
