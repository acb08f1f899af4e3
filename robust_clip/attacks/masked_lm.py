"""A masked language model as BERT-Attack uses it: what may stand at a place, and how near two sentences are."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from torch import Tensor
from torch.nn import functional
from transformers.utils.hub import extract_commit_hash

# Sentences in one pass, as in the papers' code: its logits are (32, length, 30522).
_BATCH = 32


class MaskedLM:
    """A masked language model and its tokenizer, in eval mode and float32.

    Args:
        tokenizer: A WordPiece tokenizer of transformers, such as BERT's.
        model: A masked language model of transformers.

    Raises:
        ValueError: If the tokenizer has no mask token, or its words are not made of WordPieces.
    """

    def __init__(self, tokenizer: Any, model: Any) -> None:
        """Checked here, so that nothing is attacked with candidates that mean nothing."""
        if tokenizer.mask_token is None:
            raise ValueError(
                "the tokenizer of the masked language model has no mask token; name a model that was trained with "
                "one, such as bert-base-uncased"
            )
        if getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None) != "##":
            raise ValueError(
                f"BERT-Attack builds words of WordPieces ('##ing'), which {type(tokenizer).__name__} does not have; "
                "name a model of the BERT family, such as bert-base-uncased"
            )
        self.tokenizer = tokenizer
        self.model = model.eval()

    def pieces(self, word: str) -> int:
        """How many WordPieces a word is made of."""
        return len(self.tokenizer.tokenize(word))

    def word(self, ids: Sequence[int]) -> str:
        """The text of a sequence of WordPieces; empty if it holds a special token."""
        if set(ids) & set(self.tokenizer.all_special_ids):
            return ""
        text: str = self.tokenizer.convert_tokens_to_string(self.tokenizer.convert_ids_to_tokens(list(ids)))
        return text

    @torch.no_grad()
    def predictions(self, texts: Sequence[str], k: int, max_length: int) -> list[tuple[Tensor, Tensor]]:
        """The likeliest tokens at each place of unmasked sentences.

        Args:
            texts: Sentences.
            k: Tokens per place.
            max_length: Tokens that a sentence is cut after, `[CLS]` and `[SEP]` included.

        Returns:
            For each sentence token ids and logits, `(max_length, k)`, on the CPU; row 0 is `[CLS]`'s.

        Raises:
            ValueError: If the model takes fewer tokens than `max_length`.
        """
        longest = self.model.config.max_position_embeddings
        if max_length > longest:
            raise ValueError(f"the masked language model takes at most {longest} tokens, got max_length={max_length}")
        found: list[tuple[Tensor, Tensor]] = []
        for first in range(0, len(texts), _BATCH):
            # Padded to one length whatever the company, so that a sentence's logits do not depend on it.
            inputs = self._inputs(texts[first : first + _BATCH], padding="max_length", max_length=max_length)
            logits = self.model(**inputs).logits
            values, ids = logits.float().topk(min(k, logits.shape[-1]), dim=-1)
            found += zip(ids.cpu(), values.cpu(), strict=True)
        return found

    @torch.no_grad()
    def losses(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Mean cross-entropy of bare token sequences under the model, low for those that it finds likely.

        Args:
            sequences: Token ids without `[CLS]` and `[SEP]`, at least one in each.
        """
        found: list[float] = []
        for first in range(0, len(sequences), _BATCH):
            batch = [torch.tensor(sequence) for sequence in sequences[first : first + _BATCH]]
            ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=-100).to(self.model.device)
            mask = ids != -100
            logits = self.model(input_ids=ids.clamp_min(0), attention_mask=mask.long()).logits.float()
            losses = functional.cross_entropy(logits.transpose(1, 2), ids, ignore_index=-100, reduction="none")
            found += (losses.sum(dim=1) / mask.sum(dim=1)).tolist()
        return found

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors `(N, D)` of N sentences, on the CPU, along the mean last hidden states of their tokens."""
        sums = []
        for first in range(0, len(texts), _BATCH):
            longest = self.model.config.max_position_embeddings
            inputs = self._inputs(texts[first : first + _BATCH], padding=True, max_length=longest, special=True)
            kept = ~inputs.pop("special_tokens_mask").bool().unsqueeze(-1)
            states = self.model.base_model(**inputs).last_hidden_state.float()
            sums.append((states * kept).sum(dim=1))
        return functional.normalize(torch.cat(sums), dim=-1).cpu()

    def _inputs(self, texts: Sequence[str], padding: bool | str, max_length: int, special: bool = False) -> Any:
        """Token ids and masks of sentences, on the model's device."""
        return self.tokenizer(
            list(texts),
            padding=padding,
            truncation=True,
            max_length=max_length,
            return_special_tokens_mask=special,
            return_tensors="pt",
        ).to(self.model.device)


@lru_cache(maxsize=2)
def load_masked_lm(path: str) -> MaskedLM:
    """A masked language model by Hub id or path, loaded once.

    Args:
        path: Of a model of the BERT family.

    Raises:
        ValueError: If it cannot be loaded or is not fit for BERT-Attack.
    """
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForMaskedLM.from_pretrained(path, dtype=torch.float32) if tokenizer.mask_token else None
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"cannot load the masked language model {path!r}; give the path or Hub id of one, or use the attack "
            "word_list or leaf, which need none: as protocols mmcoa_word_list and mmcoa_leaf, and in retrieve "
            f"--text_attack. ({error})"
        ) from error
    return MaskedLM(tokenizer, model)


def cached_commit(path: str) -> str | None:
    """Commit of a model of the Hub that lies in the cache; None of any other, or of a folder."""
    if Path(path).exists():
        return None
    try:
        config = try_to_load_from_cache(path, "config.json")
    except HFValidationError:
        return None
    commit: str | None = extract_commit_hash(config if isinstance(config, str) else None, None)
    return commit
