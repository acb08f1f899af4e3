"""Learned pixels of TeCoA (https://huggingface.co/papers/2212.07016), and the losses of APT and FAP."""

import numpy as np

from reference.guided_by_original import kl, softmax


def pixel_frame(up, down, left, right):
    """Four strips `(3, height, width)` as one image, pixel by pixel, with zeros inside."""
    channels, width, side = up.shape
    image = np.zeros((channels, side, side))
    for c in range(channels):
        for y in range(side):
            for x in range(side):
                if y < width:
                    image[c, y, x] = up[c, y, x]
                elif y >= side - width:
                    image[c, y, x] = down[c, y - (side - width), x]
                elif x < width:
                    image[c, y, x] = left[c, y - width, x]
                elif x >= side - width:
                    image[c, y, x] = right[c, y - width, x - (side - width)]
    return image


def apt(adversarial, labels):
    """Mean cross-entropy of adversarial logits, one sample at a time (https://huggingface.co/papers/2403.01849)."""
    return -sum(np.log(softmax(one)[label]) for one, label in zip(adversarial, labels, strict=True)) / len(labels)


def fap(clean, adversarial, clean_features, adversarial_features, labels, weight):
    """Both terms, one sample at a time (https://huggingface.co/papers/2403.14774)."""
    right, apart = 0.0, 0.0
    for row, label in enumerate(labels):
        right -= np.log(softmax(clean[row])[label])
        v, w = clean_features[row], adversarial_features[row]
        cosine = (v * w).sum() / np.sqrt((v * v).sum() * (w * w).sum())
        apart += kl(clean[row], adversarial[row]) * (cosine + 1)
    return {"clean": right / len(labels), "divergence": weight * apart / len(labels)}
