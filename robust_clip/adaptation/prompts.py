"""Prompt tuning: a few learned pixels, tokens or words; the model itself stays as it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from robust_clip.models import PromptedCLIPModel, PromptSizes, RobustCLIPModel
from robust_clip.models.prompt_sizes import ClassPosition
from robust_clip.paper import Paper


@dataclass(frozen=True)
class Prompts:
    """Learned prompts in one or both towers; every weight of the model is frozen.

    TeCoA's visual prompts are `frame` and `tokens`, alone or together. `context` is CoOp's
    (https://huggingface.co/papers/2109.01134), which APT trains on adversarial images. `tokens` and `context` with a
    `depth` are deep prompts in both towers as MaPLe (https://huggingface.co/papers/2210.03117) and FAP have them, but
    independent: MaPLe computes the visual ones from the text's by a linear layer, which is left out here.

    Args:
        frame: Width in pixels of a learned frame, added to the image after normalisation; 30 at 224 in TeCoA's code.
        patch: Side in pixels of a learned square in the top left corner, added likewise.
        tokens: Learned tokens after those of the image; 10 by default in TeCoA's code, 100 in its README.
        depth: Layers with tokens and context of their own; 1 is shallow.
        context: Learned vectors before every text, or words to begin from, such as `a photo of a`. Class names are
            then put in as `{}.`: give the training data that template.
        per_class: A context for each class. Other classes are then refused.
        class_position: Whether a class name stands at the `end`, after the context, or in the `middle` of it.
        seed: Of the initial values.

    Raises:
        ValueError: If there are no prompts at all, or as `PromptSizes`. `apply` refuses prompts that the towers have
            no room for.
    """

    frame: int = 0
    patch: int = 0
    tokens: int = 0
    depth: int = 1
    context: int | str = 0
    per_class: bool = False
    class_position: ClassPosition = "end"
    seed: int = 0

    logit_scale: ClassVar[bool] = False
    paper: ClassVar[Paper] = Paper(
        title="Visual Prompt Tuning",
        arxiv_id="2203.12119",
        bibtex="""@inproceedings{jia2022visual,
  title = {Visual Prompt Tuning},
  author = {Jia, Menglin and Tang, Luming and Chen, Bor-Chun and Cardie, Claire and Belongie, Serge and Hariharan,
    Bharath and Lim, Ser-Nam},
  booktitle = {European Conference on Computer Vision},
  year = {2022}
}""",
    )

    def __post_init__(self) -> None:
        if not self._sizes(vectors=1 if self.context else 0).towers:
            raise ValueError("Prompts needs some: set frame, patch, tokens or context.")
        if not isinstance(self.context, str):
            self._sizes(vectors=self.context)

    @property
    def towers(self) -> tuple[str, ...]:
        """`vision` for pixels and tokens, `text` for a context."""
        return self._sizes(vectors=1 if self.context else 0).towers

    def apply(
        self, model: RobustCLIPModel, tokenizer: Any = None, class_names: Sequence[str] = ()
    ) -> PromptedCLIPModel:
        """Puts fresh prompts around `model`, whose weights it shares and freezes; only prompts learn.

        A model that comes with such prompts goes on with them.

        Args:
            model: Plain, or with prompts of these sizes.
            tokenizer: Its tokenizer; needed for a context that begins from words or is one for each class.
            class_names: Of the training data; needed for a context for each class.

        Raises:
            ValueError: If the model has other prompts, tokenizer or class names are missing, or prompts do not fit.
        """
        words = self._words(tokenizer)
        sizes = self._sizes(
            vectors=len(words) if words else int(self.context), class_tokens=self._class_tokens(tokenizer, class_names)
        )
        if isinstance(model, PromptedCLIPModel):
            prompted = model
            if prompted.config.sizes != sizes:
                raise ValueError(
                    f"The model has prompts {model.config.prompts}, not {sizes.to_dict()}; train them on with their "
                    "own sizes, or begin from the base."
                )
        else:
            prompted = PromptedCLIPModel.around(model, sizes, self.seed)
            if words:
                embeddings = prompted.text_model.embeddings
                with torch.no_grad():
                    embeddings.context.copy_(embeddings.token_embedding(torch.tensor(words, device=model.device)))
        prompted.requires_grad_(False)
        for _, prompt in prompted.prompts():
            prompt.requires_grad_(True)
        return prompted

    def _sizes(self, vectors: int, class_tokens: Sequence[Any] = ()) -> PromptSizes:
        if self.per_class and not self.context:
            raise ValueError("per_class needs a context; set context, such as 16.")
        if self.per_class and self.context and self.depth > 1:
            raise ValueError("A context deeper than 1 must be one for all classes; leave out per_class.")
        return PromptSizes(
            self.frame, self.patch, self.tokens, vectors, self.depth, self.class_position, class_tokens
        )

    def _words(self, tokenizer: Any) -> list[int]:
        """Ids of the words that the context begins from."""
        if not isinstance(self.context, str):
            return []
        if tokenizer is None:
            raise ValueError(f"A context that begins from {self.context!r} needs the tokenizer; give it to apply.")
        return _ids(tokenizer, self.context)

    def _class_tokens(self, tokenizer: Any, class_names: Sequence[str]) -> list[Any]:
        """With and without the full stop, so that either template finds the class."""
        if not self.per_class:
            return []
        if tokenizer is None or not class_names:
            raise ValueError("A context for each class needs tokenizer and class names; give both to apply.")
        return [[name, [_ids(tokenizer, name), _ids(tokenizer, f"{name}.")]] for name in dict.fromkeys(class_names)]


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
