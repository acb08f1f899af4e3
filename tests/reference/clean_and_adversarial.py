"""TRADES (https://huggingface.co/papers/1901.08573) and MART (https://openreview.net/forum?id=rklOg6EFwS)."""

import numpy as np

from reference.guided_by_original import kl, softmax


def trades(clean, adversarial, labels, beta):
    """Both terms from logits, one sample at a time."""
    right, apart = 0.0, 0.0
    for one, other, label in zip(clean, adversarial, labels, strict=True):
        right -= np.log(softmax(one)[label])
        apart += kl(one, other)
    return {"clean": right / len(labels), "divergence": beta * apart / len(labels)}


def mart(clean, adversarial, labels, beta):
    """Both terms from logits, one sample at a time, with 1 - p subtracted as it is written."""
    boosted, apart = 0.0, 0.0
    for one, other, label in zip(clean, adversarial, labels, strict=True):
        p = softmax(other)
        wrong = [p[k] for k in range(len(p)) if k != label]
        boosted -= np.log(p[label]) + (np.log(1 - max(wrong)) if wrong else 0)
        apart += kl(one, other) * (1 - softmax(one)[label])
    return {"boosted": boosted / len(labels), "divergence": beta * apart / len(labels)}
