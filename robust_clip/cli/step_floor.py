"""The least that a training step can cost: the passes that an objective cannot do without."""

from typing import Any

from robust_clip.models import RobustCLIPModel
from robust_clip.objectives import Objective

# Parts of a tower that its blocks come before; their gradients take no way back through it.
_AFTER_THE_BLOCKS = ("post_layernorm.", "final_layer_norm.", "class_residuals.")


def step_floor(
    objective: Objective,
    attack: Any,
    text_pass: float = 0.0,
    prompts_pass: float = 0.0,
    *,
    image_gradient: float = 3.0,
    text_gradient: float = 3.0,
) -> float:
    """Least cost of a training step in clean steps (design: F = Bx = Bw, a clean step is 3F).

    Each attack step is a forward and a backward pass to the pixels; each pass of the teacher is F, and each of the
    student that the loss has a gradient through as `gradient_pass`; the text tower likewise.

    Args:
        objective: Says how many passes it takes.
        attack: The attack on images; those on texts are not counted.
        text_pass: Cost of a forward pass of the text tower over the objective's texts, in clean steps.
        prompts_pass: Likewise over all class prompts, which the attack on images needs anew where text learns, unless
            the loss needs them, too.
        image_gradient: `gradient_pass` of the image tower.
        text_gradient: That of the text tower.
    """
    attack_passes = 2 * attack.gradient_passes if objective.needs_attack else 0
    images = attack_passes + image_gradient * objective.student_passes + objective.teacher_passes
    embeds = objective.trains_text and objective.needs_attack and not objective.trains_class_prompts
    return images / 3 + text_gradient * objective.text_passes * text_pass + embeds * prompts_pass


def gradient_pass(model: RobustCLIPModel, tower: str) -> float:
    """Cost of a pass with the gradient of all that learns in a tower, in forward passes: 3 where all of it does.

    Besides the pass itself these are the way back through the blocks, up to the first that learns or is followed by
    none, and the gradients of the blocks' own weights. What lies outside the blocks is not counted.

    Args:
        model: As an adaptation left it.
        tower: `vision` or `text`.
    """
    whole = getattr(model, f"{tower}_model")
    blocks = list(whole.encoder.layers)
    inside = {id(weight) for block in blocks for weight in block.parameters()}
    before = any(
        weight.requires_grad and id(weight) not in inside and not name.startswith(_AFTER_THE_BLOCKS)
        for name, weight in whole.named_parameters()
    )
    learning = [any(weight.requires_grad for weight in block.parameters()) for block in blocks]
    first = 0 if before else next((place for place, learns in enumerate(learning) if learns), len(blocks))
    weights = [weight for block in blocks for weight in block.parameters()]
    own = sum(weight.numel() for weight in weights if weight.requires_grad) / sum(weight.numel() for weight in weights)
    return 1 + (len(blocks) - first) / len(blocks) + own
