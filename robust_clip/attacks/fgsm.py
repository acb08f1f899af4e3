"""The fast gradient sign method: one full step."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robust_clip.attacks.base import Attack, Problem
from robust_clip.attacks.pgd import climb
from robust_clip.paper import Paper


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """Fast gradient sign method: PGD with a single step of length epsilon; for l2, the fast gradient method.

    https://huggingface.co/papers/1412.6572, Section 4.

    Args:
        random_start: Begin at a random point of the threat model instead of the clean image.
    """

    paper: ClassVar[Paper] = Paper(
        title="Explaining and Harnessing Adversarial Examples",
        arxiv_id="1412.6572",
        bibtex="""@inproceedings{goodfellow2015explaining,
  title = {Explaining and Harnessing Adversarial Examples},
  author = {Goodfellow, Ian J. and Shlens, Jonathon and Szegedy, Christian},
  booktitle = {International Conference on Learning Representations},
  year = {2015},
  eprint = {1412.6572},
  archivePrefix = {arXiv}
}""",
    )

    random_start: bool = False

    @property
    def gradient_passes(self) -> int:
        """One."""
        return 1

    def search(self, problem: Problem) -> Tensor:
        """Take the one step."""
        return climb(problem, 1, problem.threat_model.epsilon, self.random_start, stop_when_fooled=False)
