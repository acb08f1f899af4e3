"""Class-prompt logits and cross-entropy (TeCoA, https://huggingface.co/papers/2212.07016, Eq. 3), in plain numpy."""

import numpy as np


def class_logits(image_features, class_embeds, logit_scale):
    """`(B, C)`: scaled cosine of each image feature with each class embedding, one pair at a time."""
    logits = np.zeros((len(image_features), len(class_embeds)))
    for i, image in enumerate(image_features):
        for c, embed in enumerate(class_embeds):
            logits[i, c] = logit_scale * np.dot(image, embed) / (np.linalg.norm(image) * np.linalg.norm(embed))
    return logits


def cross_entropy(logits, labels):
    """`-mean_i log softmax(logits_i)[y_i]`, with the softmax written out."""
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        exponentials = np.exp(row - row.max())
        total -= np.log(exponentials[label] / exponentials.sum())
    return total / len(labels)
