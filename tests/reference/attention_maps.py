"""Text-guided attention (TGA-ZSR, https://huggingface.co/papers/2410.21802), in plain numpy, one token at a time."""

import numpy as np


def attention_map(tokens, text, token_norm, range_epsilon=1e-6):
    """Of one image: `(1 + N, D)` tokens and a `(D,)` text; the similarities of the N patch tokens, in [0, 1]."""
    tokens = np.array(tokens, dtype=np.float64)
    if token_norm == "feature":
        tokens = np.stack([token / np.sqrt((token**2).sum()) for token in tokens])
    if token_norm == "across_tokens":
        tokens = np.stack([channel / np.sqrt((channel**2).sum()) for channel in tokens.T]).T
    similarities = [sum(a * b for a, b in zip(token, text, strict=True)) for token in tokens[1:]]
    low, high = min(similarities), max(similarities)
    return np.array([(value - low) / (high - low + range_epsilon) for value in similarities])


def upsample(attention, side):
    """One square map, `(N,)`, to `(side, side)`: each pixel's centre between the four nearest centres of patches."""
    patches = int(round(len(attention) ** 0.5))
    grid, fine = np.reshape(attention, (patches, patches)), np.zeros((side, side))
    for row in range(side):
        for column in range(side):
            y, x = (max(0.0, (place + 0.5) * patches / side - 0.5) for place in (row, column))
            top, left = int(y), int(x)
            bottom, right = min(top + 1, patches - 1), min(left + 1, patches - 1)
            down, along = y - top, x - left
            upper = (1 - along) * grid[top, left] + along * grid[top, right]
            lower = (1 - along) * grid[bottom, left] + along * grid[bottom, right]
            fine[row, column] = (1 - down) * upper + down * lower
    return fine


def distance(one, other, kind):
    """Of two maps of one image."""
    pairs = list(zip(np.ravel(one), np.ravel(other), strict=True))
    if kind == "l2":
        return np.sqrt(sum((a - b) ** 2 for a, b in pairs))
    if kind == "l1":
        return sum(abs(a - b) for a, b in pairs) / len(pairs)
    lengths = np.sqrt(sum(a * a for a, _ in pairs)) * np.sqrt(sum(b * b for _, b in pairs))
    return 1 - sum(a * b for a, b in pairs) / lengths
