"""Citations."""

import pytest

from robust_clip.paper import Paper


def test_url_is_the_hub_page_of_the_paper():
    """The link follows from the identifier."""
    assert Paper("Title", "2212.07016", "@misc{}").url == "https://huggingface.co/papers/2212.07016"


@pytest.mark.parametrize("arxiv_id", ["arXiv:2212.07016", "2212.07016v2", "https://arxiv.org/abs/2212.07016", ""])
def test_identifier_that_leads_nowhere_is_refused(arxiv_id):
    """Prefixes, versions and whole addresses are not identifiers."""
    with pytest.raises(ValueError, match="arxiv_id must be like"):
        Paper("Title", arxiv_id, "@misc{}")


def test_a_paper_that_is_not_on_arxiv_has_its_own_page():
    """There is no identifier to make the link of."""
    assert Paper("Title", None, "@misc{}", url="https://openreview.net/forum?id=a").url.endswith("?id=a")
    with pytest.raises(ValueError, match="not on arXiv needs a url"):
        Paper("Title", None, "@misc{}")
