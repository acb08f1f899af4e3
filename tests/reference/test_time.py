"""TTC and R-TPT once more, in plain numpy and one image at a time."""

import numpy as np


def counterattack(features, gradient, image, noise, epsilon, steps, step_size, threshold, beta):
    """The change that TTC makes to one image, with clipping written as the authors do, on the change itself.

    Args:
        features: From an image to its features `(D,)`.
        gradient: From an image to the gradient there of the squared distance of its features from those of `image`.
        image: `(3, H, W)` in [0, 1].
        noise: The first change, before it is clipped to the box.
        epsilon: Radius.
        steps: Of the counterattack.
        step_size: Of a step.
        threshold: Of the ratio.
        beta: Of the weights.
    """
    changes = [np.clip(noise, 0 - image, 1 - image)]
    clean = features(image)
    ratio = np.linalg.norm(features(image + changes[0]) - clean) / np.linalg.norm(clean)
    for _ in range(steps):
        change = changes[-1] + step_size * np.sign(gradient(image + changes[-1]))
        changes.append(np.clip(np.clip(change, -epsilon, epsilon), 0 - image, 1 - image))
    if ratio >= threshold:
        return changes[0]
    weights = np.exp(beta * np.arange(steps + 1))
    return sum(weight * change for weight, change in zip(weights / weights.sum(), changes, strict=True))


def pointwise_entropy(logits, chosen):
    """Mean over the `chosen` rows of logits `(V, C)` of the entropy of each row's softmax."""
    total = 0.0
    for row in logits[chosen]:
        odds = np.exp(row - row.max())
        odds /= odds.sum()
        total -= (odds * np.log(odds)).sum()
    return total / len(chosen)


def vote(embeds, logits, neighbours, temperature):
    """R-TPT's vote `(C,)` of views with features `embeds` `(V, D)` and logits `(V, C)`."""
    units = embeds / np.linalg.norm(embeds, axis=1, keepdims=True)
    scores = []
    for own, unit in enumerate(units):
        others = sorted(float(unit @ other) for place, other in enumerate(units) if place != own)
        scores.append(np.mean(others[-neighbours:]))
    weights = np.exp((np.array(scores) - max(scores)) / temperature)
    return weights / weights.sum() @ logits


def first_adamw_step(start, gradient, learning_rate, decay=0.01, tiny=1e-8):
    """Where AdamW is after its first step, whose bias correction leaves the sign of the gradient."""
    return start - learning_rate * decay * start - learning_rate * gradient / (np.abs(gradient) + tiny)
