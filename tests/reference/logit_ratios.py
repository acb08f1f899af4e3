"""Ratios of logit differences (AutoAttack, https://huggingface.co/papers/2003.01690, Eqs. 6 and 7), in plain numpy."""

import numpy as np


def difference_of_logits_ratio(logits, label):
    """`-(z_y - max_{i != y} z_i) / (z_pi1 - z_pi3)` of one sample; pi sorts the logits from the largest down."""
    ordered = sorted(logits, reverse=True)
    return -(logits[label] - np.delete(logits, label).max()) / (ordered[0] - ordered[2])


def targeted_difference_of_logits_ratio(logits, label, target):
    """`-(z_y - z_t) / (z_pi1 - (z_pi3 + z_pi4) / 2)` of one sample."""
    ordered = sorted(logits, reverse=True)
    return -(logits[label] - logits[target]) / (ordered[0] - (ordered[2] + ordered[3]) / 2)
