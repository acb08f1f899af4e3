"""The paper that an attack, an objective or a way of adapting comes from."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A citation: what model cards and the paper index print.

    Args:
        title: Title as published.
        arxiv_id: Identifier on arXiv without version, such as `"1706.06083"`; `None` for a paper that is not there.
        bibtex: The BibTeX entry, ready to paste.
        url: Page of the paper; by default its page on the Hugging Face Hub, which papers on arXiv have.

    Raises:
        ValueError: If `arxiv_id` is not of the form `YYMM.NNNNN`, or there is neither it nor a `url`.

    Example:
        >>> Paper("Attention Is All You Need", "1706.03762", "@misc{...}").url
        'https://huggingface.co/papers/1706.03762'
    """

    title: str
    arxiv_id: str | None
    bibtex: str
    url: str = ""

    def __post_init__(self) -> None:
        """Refuse an identifier whose page would not be there."""
        if self.arxiv_id is None:
            if not self.url:
                raise ValueError("a paper that is not on arXiv needs a url, the address of its page")
            return
        if not re.fullmatch(r"\d{4}\.\d{4,5}", self.arxiv_id):
            raise ValueError(f"arxiv_id must be like '1706.06083', without 'arXiv:' or version, got {self.arxiv_id!r}")
        if not self.url:
            object.__setattr__(self, "url", f"https://huggingface.co/papers/{self.arxiv_id}")
