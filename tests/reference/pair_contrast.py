"""MMCoA's in-batch contrast (https://huggingface.co/papers/2404.19287, section 3.3), in plain numpy."""

import numpy as np


def pair_contrast(logits, groups, duplicates):
    """Sum of both directions; what other pairs of a group are is said by `duplicates`."""
    return one_direction(logits, groups, duplicates) + one_direction(logits.T, groups, duplicates)


def one_direction(logits, groups, duplicates):
    """Mean over rows of the cross-entropy with the own text, or with all texts of the own group."""
    total = 0.0
    for i, row in enumerate(logits):
        others = [j for j in range(len(row)) if j != i and groups[j] == groups[i]]
        rivals = [j for j in range(len(row)) if not (duplicates == "mask" and j in others)]
        log_partition = row.max() + np.log(sum(np.exp(row[j] - row.max()) for j in rivals))
        positives = [i, *others] if duplicates == "soft_targets" else [i]
        total -= sum(row[j] - log_partition for j in positives) / len(positives)
    return total / len(logits)
