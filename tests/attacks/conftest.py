"""Victims whose behaviour is known, and images to attack."""

import pytest
import torch
from torch import nn


class LinearVictim(nn.Module):
    """Few classes, `logits = <weight_c, pixels>`, computed in an order that does not depend on the batch."""

    def __init__(self, height, width, classes=2):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.randn(classes, 3, height, width, generator=generator))

    def forward(self, pixels):
        return (pixels.unsqueeze(1) * self.weight.to(pixels)).flatten(2).sum(dim=2)


class CurvedVictim(LinearVictim):
    """Not linear, with a dropout in the way and a part that is frozen and in eval mode from the start."""

    def __init__(self, height, width):
        super().__init__(height, width)
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm2d(3).eval().requires_grad_(False)

    def forward(self, pixels):
        logits = super().forward(self.dropout(self.frozen(pixels)))
        return torch.tanh(logits * logits.flip(1) / 8) + logits / 8

    def encode(self, pixels):
        return self.forward(pixels)


@pytest.fixture
def linear_victim():
    """Class of the linear victim: `linear_victim(height, width)`."""
    return LinearVictim


@pytest.fixture
def curved_victim():
    """Class of the curved victim: `curved_victim(height, width)`."""
    return CurvedVictim


@pytest.fixture
def images():
    """Function giving `(B, 3, H, W)` images, some of whose pixels are on the faces of the box."""

    def make(batch, height=8, width=8, dtype=torch.float32):
        generator = torch.Generator().manual_seed(batch)
        return (1.4 * torch.rand(batch, 3, height, width, generator=generator) - 0.2).clamp(0, 1).to(dtype)

    return make


@pytest.fixture
def network():
    """A smooth network of 6 classes for 5x5 images, curved enough that samples take different numbers of steps."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(75, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 6)]
    network = nn.Sequential(*layers).eval()
    for parameter in network.parameters():
        parameter.data *= 4
    return network
