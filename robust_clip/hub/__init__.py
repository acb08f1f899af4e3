"""What goes to the Hub with the weights."""

from .card import Origin, render_card
from .card_data import DataFacts
from .convert import convert_checkpoint, load_published
from .cost import read_cost, this_hardware
from .folder import ModelFolder
from .published import ConvertedCheckpoint
from .push import push_folder
from .registry import CHECKPOINTS, HubCheckpoint

__all__ = [
    "CHECKPOINTS",
    "ConvertedCheckpoint",
    "DataFacts",
    "HubCheckpoint",
    "ModelFolder",
    "Origin",
    "convert_checkpoint",
    "load_published",
    "push_folder",
    "read_cost",
    "render_card",
    "this_hardware",
]
