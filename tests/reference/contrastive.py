"""Symmetric InfoNCE (CLIP, https://huggingface.co/papers/2103.00020, Figure 3) with groups, in plain numpy."""

import numpy as np


def info_nce(logits, groups):
    """Mean of both directions; an image's targets are spread evenly over the captions that equal its own."""
    return (one_direction(logits, groups) + one_direction(logits.T, groups)) / 2


def one_direction(logits, groups):
    """`-mean_i 1/|G(i)| sum_{j in G(i)} log softmax(logits_i)[j]`, G(i) being the samples of i's group."""
    total = 0.0
    for row, own in zip(logits, groups, strict=True):
        log_partition = np.log(np.exp(row - row.max()).sum()) + row.max()
        positives = [j for j, group in enumerate(groups) if group == own]
        total -= sum(row[j] - log_partition for j in positives) / len(positives)
    return total / len(groups)
