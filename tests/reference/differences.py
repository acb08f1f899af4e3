"""Gradients by central differences, for comparison with automatic ones."""

import numpy as np


def central_differences(function, point, step=1e-5):
    """Gradient of a scalar `function` of an array at `point`, in float64."""
    gradient = np.zeros_like(point, dtype=np.float64)
    for position in np.ndindex(point.shape):
        ahead, behind = point.astype(np.float64), point.astype(np.float64)
        ahead[position] += step
        behind[position] -= step
        gradient[position] = (function(ahead) - function(behind)) / (2 * step)
    return gradient
