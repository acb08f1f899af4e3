"""TIMA (https://huggingface.co/papers/2405.17678) in plain numpy: one sample and one pair of classes at a time."""

import numpy as np

from reference.guided_by_original import kl, softmax, unit


def energy(embeds, exponent=2.0):
    """`mean_{j != k} 1 / (1 + ||t_j - t_k||^a)` of unit embeddings; 0 without pairs."""
    units = [unit(embed) for embed in embeds]
    pairs = [(j, k) for j in range(len(units)) for k in range(len(units)) if j != k]
    return sum(1 / (1 + distance(units[j], units[k]) ** exponent) for j, k in pairs) / max(1, len(pairs))


def distance(first, second):
    """Euclidean."""
    return np.sqrt(sum((a - b) ** 2 for a, b in zip(first, second, strict=True)))


def margins(embeds, kind="tam", offset=0.0):
    """Row y: the margin of each class against y, relative to the largest."""
    units = [unit(embed) for embed in embeds]
    found = np.zeros((len(units), len(units)))
    for y, own in enumerate(units):
        row = [distance(own, other) if kind == "tam" else 1 - np.dot(own, other) for other in units]
        for j, apart in enumerate(row):
            if j != y and apart > 1e-9:
                found[y, j] = offset + (1 - offset) * apart / max(row)
    return found


def margin_loss(cosines, labels, margin, scale, form="additive"):
    """`-mean_i log(e^{s c_y} / (e^{s c_y} + sum_{j != y} e^{s c'_j}))`, c' with the margins of row y."""
    total = 0.0
    for row, label in zip(cosines, labels, strict=True):
        moved = []
        for j, cosine in enumerate(row):
            added = margin[label][j] if j != label else 0.0
            if form == "additive":
                moved.append(cosine + added)
            else:
                moved.append(np.cos(max(0.0, np.arccos(cosine) - added)) if added > 0 else cosine)
        total -= np.log(softmax(scale * np.array(moved))[label])
    return total / len(labels)


def distillation(expected, given):
    """Mean over rows of `KL(softmax(expected) || softmax(given))`."""
    return sum(kl(p, q) for p, q in zip(expected, given, strict=True)) / len(expected)


def semantic_divergence(original, embeds, scale):
    """Mean over classes of the divergence of softmaxes over the other classes."""
    before, after = [unit(t) for t in original], [unit(t) for t in embeds]
    total = 0.0
    for j in range(len(before)):
        others = [k for k in range(len(before)) if k != j]
        if others:
            total += kl(*(np.array([scale * np.dot(t[j], t[k]) for k in others]) for t in (before, after)))
    return total / len(before)
