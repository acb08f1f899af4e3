"""AdvFLYP (https://huggingface.co/papers/2604.11576) in plain numpy, from features and one caption per image."""

from reference import class_prompts, contrastive
from reference.guided_by_original import feature_distance, kl


def terms(adversarial, clean, original, captions, groups, scale):
    """InfoNCE, distances and divergences, each with weight 1; `original` are features of adversarial images."""
    logits, own, frozen = (class_prompts.class_logits(f, captions, scale) for f in (adversarial, clean, original))
    apart = 0.0
    for row, a, b in zip(logits, own, frozen, strict=True):
        apart += kl(row, a) + kl(row, b)
    return {
        "info_nce": contrastive.info_nce(logits, groups),
        "feature": feature_distance(adversarial, clean, True) + feature_distance(adversarial, original, True),
        "logit": apart / len(logits),
    }
