"""Prompts of the text tower: learned vectors among the words of every text."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextEmbeddings

from .class_texts import ClassTexts, end_positions
from .prompt_sizes import PromptSizes


class PromptedTextEmbeddings(CLIPTextEmbeddings):
    """CLIP's token embeddings, with a learned context as a second vocabulary of negative token ids.

    `insert` puts the ids of the context into a text: -1, -2, ... for the vectors of the first class or of all, the
    next ones for the second class. Everything after it, positions, causal mask and pooling at the end token, is
    CLIP's own.

    Args:
        config: Of the text tower.
        sizes: Of the prompts.
    """

    def __init__(self, config: CLIPTextConfig, sizes: PromptSizes) -> None:
        super().__init__(config)
        self.class_position = sizes.class_position
        self.texts = ClassTexts(sizes.class_tokens, config.eos_token_id)
        contexts = max(1, len(self.texts.names))
        self.context = nn.Parameter(torch.randn(contexts, sizes.context, config.hidden_size))

    def insert(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Texts with the context in them.

        A text that leaves no room for the context is cut and gets its end token back, as CLIP's tokenizer cuts one
        that is too long by itself.

        Args:
            input_ids: `(N, L)` token ids with start and end token; nothing after the end token matters.
            attention_mask: `(N, L)`, or `None`.

        Returns:
            Ids `(N, L + M)` and mask alike, at most as long as the tower's context length.

        Raises:
            ValueError: If there is a context for each class, and a text is none of the classes.
        """
        count = self.context.shape[1]
        room = self.position_embedding.num_embeddings - count
        ends = end_positions(input_ids, self.texts.eos_token_id)
        rows = torch.arange(len(input_ids), device=input_ids.device)
        classes = self._classes(input_ids)
        end_ids, long = input_ids[rows, ends], ends >= room
        input_ids = input_ids[:, :room].clone()
        input_ids[long, -1] = end_ids[long]
        ends = ends.clamp(max=room - 1)
        learned = -1 - (classes[:, None] * count + torch.arange(count, device=rows.device))
        # Every token gets the place it sorts to: words keep theirs, vectors come after the start or before the end.
        places = torch.arange(input_ids.shape[1], device=rows.device, dtype=torch.float).expand(len(rows), -1)
        after = torch.full((len(rows), count), 0.5, device=rows.device)
        if self.class_position == "middle":
            after[:, count // 2 :] = ends[:, None] - 0.5
        order = torch.cat([places, after], dim=1).argsort(dim=1, stable=True)
        ids = torch.cat([input_ids, learned], dim=1).gather(1, order)
        if attention_mask is not None:
            mask = attention_mask[:, :room]
            attention_mask = torch.cat([mask, mask.new_ones(len(rows), count)], dim=1).gather(1, order)
        return ids, attention_mask

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Embeddings `(N, L, width)` of token ids `(N, L)`, of which negative ones are the context."""
        if input_ids is not None and inputs_embeds is None:
            words = self.token_embedding(input_ids.clamp(min=0))
            vectors = self.context.flatten(0, 1).to(words.dtype)[(-1 - input_ids).clamp(min=0)]
            inputs_embeds = torch.where((input_ids < 0).unsqueeze(-1), vectors, words)
        given: dict[str, Any] = {"input_ids": input_ids, "position_ids": position_ids, "inputs_embeds": inputs_embeds}
        embeddings: Tensor = super().forward(**given)
        return embeddings

    def _classes(self, input_ids: Tensor) -> Tensor:
        """Which context each text gets, `(N,)`."""
        if not self.texts.names:
            return torch.zeros(len(input_ids), dtype=torch.long, device=input_ids.device)
        return self.texts.rows(
            input_ids,
            "a learned context",
            "Give texts as {} or {}. with one of the names and no other words; for new names learn one context for "
            "all classes.",
        )
