"""A learned vector for each class, added to what a frozen text tower makes of its name."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPConfig

from .class_texts import ClassTexts
from .prompt_sizes import PromptSizes


class ClassResiduals(nn.Module):
    """`t_c = u(u(g(prompt_c)) + r_c)`, with u the projection to the unit sphere and g the text tower.

    TaskRes (https://huggingface.co/papers/2211.10277) with its scale alpha at 1; there the residual is learned on
    clean images. Where a class has several prompts, each of them gets the residual before they are pooled.

    A class that was not there in training has no residual, and its bare embedding beside those that have moved would
    compare what was not made to be compared. So its texts are refused, and so are templates other than those of
    training, by which a class is found.

    Args:
        config: Of the model.
        sizes: With the tokens of each class's prompts.
    """

    def __init__(self, config: CLIPConfig, sizes: PromptSizes) -> None:
        super().__init__()
        self.texts = ClassTexts(sizes.class_tokens, config.text_config.eos_token_id)
        width: Any = config.projection_dim  # typed as if it could be missing
        self.vectors = nn.Parameter(torch.zeros(len(self.texts.names), width))

    def forward(self, features: Tensor, input_ids: Tensor) -> Tensor:
        """Features `(N, D)` of texts `(N, L)` with the residuals of their classes, in units of the features' norms.

        They keep their scale that way: with residuals of 0 they are what they were, to the bit.

        Raises:
            ValueError: If a text is none of the prompts of training.
        """
        rows = self.texts.rows(
            input_ids,
            "a learned residual",
            "Give the class names and templates of the training data, and no others; for new ones train the text "
            "tower itself, by the adaptation full without class_residuals.",
        )
        return features + features.norm(dim=-1, keepdim=True) * self.vectors[rows]
