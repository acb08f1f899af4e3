"""The paper that an attack, an objective or a way of adapting comes from."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A citation: what model cards and the paper index print.

    Args:
        title: Title as published.
        arxiv_id: Identifier on arXiv without version, such as `"1706.06083"`.
        bibtex: The BibTeX entry, ready to paste.

    Raises:
        ValueError: If `arxiv_id` is not of the form `YYMM.NNNNN`.

    Example:
        >>> Paper("Attention Is All You Need", "1706.03762", "@misc{...}").url
        'https://huggingface.co/papers/1706.03762'
    """

    title: str
    arxiv_id: str
    bibtex: str

    def __post_init__(self) -> None:
        """Refuse an identifier whose `url` would lead nowhere."""
        if not re.fullmatch(r"\d{4}\.\d{4,5}", self.arxiv_id):
            raise ValueError(f"arxiv_id must be like '1706.06083', without 'arXiv:' or version, got {self.arxiv_id!r}")

    @property
    def url(self) -> str:
        """Page of the paper on the Hugging Face Hub."""
        return f"https://huggingface.co/papers/{self.arxiv_id}"
