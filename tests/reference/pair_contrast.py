"""MMCoA's contrast of pairs in numpy, pair by pair."""

import numpy as np


def pair_contrast(logits, groups, duplicates):
    """Sum of both directions, each a mean over the batch; what equal texts are is said by `duplicates`."""
    places = range(len(groups))
    total = 0.0
    for i in places:
        equal = [j for j in places if groups[j] == groups[i]]
        images = texts = list(places)
        own_images = own_texts = [i]
        if duplicates == "mask":
            images = texts = [j for j in places if j == i or j not in equal]
        if duplicates == "soft_targets":
            texts = [groups.index(group) for group in set(groups)]
            own_texts = [groups.index(groups[i])]
            own_images = equal
        total += cross_entropy(logits[i], texts, own_texts) + cross_entropy(logits[:, i], images, own_images)
    return total / len(groups)


def cross_entropy(row, choices, positives):
    """Of an even choice among `positives` with the softmax over `choices`."""
    log_partition = row.max() + np.log(sum(np.exp(row[j] - row.max()) for j in choices))
    return -sum(row[j] - log_partition for j in positives) / len(positives)
