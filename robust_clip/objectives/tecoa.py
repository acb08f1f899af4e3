"""TeCoA: text-guided contrastive adversarial training."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from robust_clip.models import RobustCLIPModel
from robust_clip.paper import Paper

from .base import Batch, Objective, class_embeds_of
from .functional import class_logits


@dataclass(frozen=True)
class TeCoA(Objective):
    """Cross-entropy of adversarial images over all class prompts, image tower trained, text tower frozen.

    `L = -mean_i log softmax_j(s cos(f(x'_i), g(t_j)))[y_i]` (Mao et al., ICLR 2023,
    https://huggingface.co/papers/2212.07016, Eq. 3), with `s = exp(logit_scale)` of the checkpoint (100 for OpenAI's).
    The contrast is with every class prompt, not with the rest of the batch.

    Differs from the authors' code: no gradient of the attack reaches the weights, and the class embeddings of the
    frozen text tower are computed once instead of every step.
    """

    paper: ClassVar[Paper] = Paper(
        title="Understanding Zero-shot Adversarial Robustness for Large-Scale Models",
        arxiv_id="2212.07016",
        bibtex="""@inproceedings{mao2023understanding,
  title={Understanding Zero-shot Adversarial Robustness for Large-Scale Models},
  author={Mao, Chengzhi and Geng, Scott and Yang, Junfeng and Wang, Xin and Vondrick, Carl},
  booktitle={International Conference on Learning Representations},
  year={2023}
}""",
    )

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"tecoa": scalar}`."""
        class_embeds = class_embeds_of(batch, "TeCoA")
        logits = class_logits(student.encode_image(batch.adversarial), class_embeds, student.logit_scale.exp())
        return {"tecoa": F.cross_entropy(logits, batch.labels)}
