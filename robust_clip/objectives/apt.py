"""APT: a text context learned on adversarial images, the model itself frozen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from robust_clip.attacks.losses import AttackLoss, CrossEntropy
from robust_clip.models import CONTEXT_TEMPLATE, PromptedCLIPModel, RobustCLIPModel, ZeroShotClassifier
from robust_clip.paper import Paper

from .base import (
    Batch,
    Objective,
    check_choice,
    class_embeds_of,
    encode_class_prompts,
    student_class_embeds,
)
from .functional import class_logits

AttackPrompt = Literal["onfly", "constant", "perturbed"]


@dataclass(frozen=True)
class APT(Objective):
    """Cross-entropy of adversarial images over class prompts with a learned context.

    `min_t -mean_i log softmax_j(s cos(f(x'_i), g([t, name_j])))[y_i]` over the context t (Li et al., CVPR 2024,
    https://huggingface.co/papers/2403.01849, section 3.2), on an image tower that is robust already. For use with
    `adaptation: {name: prompts, context: 16}`; any adaptation that trains the text tower alone will do.

    The attack climbs the same cross-entropy under one of three prompts, called as in the authors' scripts: `onfly` is
    the context as it is now, `constant` is "a photo of a {}", and `perturbed` climbs the context along with the image:
    each step of the search is followed by one step of gradient ascent on the context, `prompt_step` long in units of
    the gradient of the batch's mean loss, and the next batch begins from the context again.

    Differs from the authors' code: no gradient of the attack reaches the context's own, and its class embeddings are
    computed once for all steps of `onfly`. Where an attack looks at its result without a gradient, as with restarts,
    `perturbed` keeps the context that it has reached.

    Args:
        attack_prompt: `onfly`, `constant` or `perturbed`.
        prompt_step: Length of the ascent on the context; the authors' scripts leave it to the user. Only for
            `perturbed`, which needs it.

    Raises:
        ValueError: On an unknown attack prompt, or a step that is missing, not positive or of no use.
    """

    attack_prompt: AttackPrompt = "onfly"
    prompt_step: float | None = None

    paper: ClassVar[Paper] = Paper(
        title="One Prompt Word is Enough to Boost Adversarial Robustness for Pre-trained Vision-Language Models",
        arxiv_id="2403.01849",
        bibtex="""@inproceedings{li2024one,
  title={One Prompt Word is Enough to Boost Adversarial Robustness for Pre-trained Vision-Language Models},
  author={Li, Lin and Guan, Haoyan and Qiu, Jianing and Spratling, Michael},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2024}
}""",
    )
    student_passes: ClassVar[int] = 0
    # Of the image tower, which is frozen: a pass that costs what a teacher's does.
    teacher_passes: ClassVar[int] = 1
    text_passes: ClassVar[int] = 1
    trains_vision: ClassVar[bool] = False
    trains_text: ClassVar[bool] = True
    trains_class_prompts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice("attack_prompt", self.attack_prompt, get_args(AttackPrompt))
        if (self.attack_prompt == "perturbed") != (self.prompt_step is not None):
            raise ValueError(f"prompt_step goes with attack_prompt perturbed and no other, got {self.prompt_step}.")
        if self.prompt_step is not None and not self.prompt_step > 0:
            raise ValueError(f"prompt_step must be above 0, got {self.prompt_step}.")

    @property
    def other_template(self) -> str | None:  # type: ignore[override]
        """What the attack sees in place of the context."""
        return "a photo of a {}" if self.attack_prompt == "constant" else None

    def __call__(self, student: RobustCLIPModel, teacher: RobustCLIPModel | None, batch: Batch) -> dict[str, Tensor]:
        """`{"apt": scalar}`."""
        class_embeds = student_class_embeds(student, batch, "APT")
        # The image tower does not learn; only an attack on this loss differentiates through it.
        with torch.set_grad_enabled(torch.is_grad_enabled() and batch.adversarial.requires_grad):
            features = student.encode_image(batch.adversarial)
        logits = class_logits(features, class_embeds, student.logit_scale.exp())
        return {"apt": F.cross_entropy(logits, batch.labels)}

    def inner_problem(
        self, student: nn.Module, teacher: RobustCLIPModel | None, batch: Batch
    ) -> tuple[Callable[[Tensor], Tensor], AttackLoss]:
        """Cross-entropy under the prompt that `attack_prompt` names.

        Raises:
            ValueError: If the batch has no classes, or the context is to be perturbed and there is none.
        """
        class_embeds = class_embeds_of(batch, "The attack of APT")
        loss = CrossEntropy(batch.labels)
        if self.prompt_step is not None:
            return PerturbedContext(student, batch, self.prompt_step), loss
        if self.attack_prompt == "constant":
            if batch.other_class_embeds is None:
                raise ValueError(f"attack_prompt constant needs class embeddings of {self.other_template!r}.")
            class_embeds = batch.other_class_embeds
        return ZeroShotClassifier(student, class_embeds.detach()), loss


class PerturbedContext(nn.Module):
    """Logits under a context that climbs the loss whenever the images are about to.

    Every pass with a gradient is a step of the search, and is followed by a step of the context, in place of which
    the model's own is never touched.

    Args:
        student: With a learned context.
        batch: With labels and class prompts.
        step: Length of a step, in units of the gradient of the mean loss.

    Raises:
        ValueError: If the model has no learned context, or the batch no prompts.
    """

    def __init__(self, student: nn.Module, batch: Batch, step: float) -> None:
        super().__init__()
        contexts: list[tuple[str, Tensor]] = []
        student(compute=lambda model: contexts.extend(_contexts(model)))
        if not contexts or batch.prompt_ids is None:
            raise ValueError(
                "attack_prompt perturbed needs a learned context and class prompts: "
                f"set adaptation: {{name: prompts, context: 16}} and data.templates: ['{CONTEXT_TEMPLATE}']."
            )
        self.student, self.batch, self.step = student, batch, step
        self.contexts = {name: context.detach().clone() for name, context in contexts}

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits `(B, C)` of pixels `(B, 3, H, W)`; those of the whole batch, in its order, where it takes a step."""
        moving = torch.is_grad_enabled()
        contexts = {name: context.requires_grad_(moving) for name, context in self.contexts.items()}
        logits: Tensor = self.student(compute=lambda model: self._logits(model, pixels, contexts))
        if moving:
            self._climb(logits)
        return logits

    def _logits(self, model: Any, pixels: Tensor, contexts: dict[str, Tensor]) -> Tensor:
        def class_embeds(prompted: RobustCLIPModel) -> Tensor:
            return encode_class_prompts(prompted, self.batch, "APT")

        embeds = functional_call(model, contexts, kwargs={"compute": class_embeds})
        return class_logits(model.encode_image(pixels), embeds, model.logit_scale.detach().exp())

    def _climb(self, logits: Tensor) -> None:
        if len(logits) != len(self.batch.labels):
            raise ValueError("attack_prompt perturbed needs a search over the whole batch at once, such as pgd.")
        loss = F.cross_entropy(logits, self.batch.labels)
        gradients = torch.autograd.grad(loss, list(self.contexts.values()), retain_graph=True)
        for (name, context), gradient in zip(list(self.contexts.items()), gradients, strict=True):
            self.contexts[name] = (context + self.step * gradient).detach()


def _contexts(model: Any) -> list[tuple[str, Tensor]]:
    return list(model.prompts("text")) if isinstance(model, PromptedCLIPModel) else []
