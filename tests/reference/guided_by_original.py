"""Losses that compare a student with a frozen original, in plain numpy: one sample and one class at a time."""

import numpy as np


def softmax(logits):
    """Probabilities of one row of logits."""
    exponentials = [np.exp(value - max(logits)) for value in logits]
    return np.array(exponentials) / sum(exponentials)


def kl(first, second):
    """`KL(softmax(first) || softmax(second))` of two rows of logits."""
    p, q = softmax(first), softmax(second)
    return sum(p[c] * (np.log(p[c]) - np.log(q[c])) for c in range(len(p)))


def unit(feature):
    """One feature at length 1."""
    return feature / np.sqrt(sum(value**2 for value in feature))


def confidence_aware_divergence(adversarial_logits, clean_logits, labels):
    """CAW (https://huggingface.co/papers/2510.02913): mean of `(1 - p[y]) KL(p || q)`."""
    rows = zip(adversarial_logits, clean_logits, labels, strict=True)
    return np.mean([(1 - softmax(z)[label]) * kl(z, original) for z, original, label in rows])


def feature_distance(features, reference, normalize):
    """CAW's alignment: mean of the distance, not squared, of features that may have unit length first."""
    total = 0.0
    for one, other in zip(features, reference, strict=True):
        one, other = (unit(one), unit(other)) if normalize else (one, other)
        total += np.sqrt(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)))
    return total / len(features)


def fare(adversarial, clean, original, clean_weight, trades):
    """FARE (https://huggingface.co/papers/2402.12336) from un-normalised features of the student and the original."""
    total = 0.0
    for i in range(len(original)):
        target = clean[i] if trades else original[i]
        far = sum((adversarial[i][d] - target[d]) ** 2 for d in range(len(target)))
        drift = sum((clean[i][d] - original[i][d]) ** 2 for d in range(len(target)))
        total += clean_weight * drift + (1 - clean_weight) * far
    return total / len(original)


def pmg_divergence(reference, adversarial, direction, reduction):
    """PMG-AFT (https://huggingface.co/papers/2401.04350): one of its two divergences, over a batch of logits."""
    total = 0.0
    for first, second in zip(reference, adversarial, strict=True):
        total += kl(first, second) if direction == "reference_first" else kl(second, first)
    return total if reduction == "sum" else total / len(reference)


def soft_targets(logits, gamma):
    """AGFT (https://huggingface.co/papers/2603.29410): the original's predictions, softened."""
    return np.array([softmax(gamma * row) for row in logits])


def soft_cross_entropy(logits, targets):
    """`-mean_i sum_j q_ij log p_ij`."""
    pairs = zip(logits, targets, strict=True)
    return np.mean([-sum(q * np.log(p) for q, p in zip(target, softmax(row), strict=True)) for row, target in pairs])


def cosine_distance(features, reference):
    """Sim-CLIP (https://huggingface.co/papers/2407.14971): mean of 1 minus the cosine."""
    pairs = zip(features, reference, strict=True)
    return np.mean([1 - sum(a * b for a, b in zip(unit(one), unit(other), strict=True)) for one, other in pairs])
