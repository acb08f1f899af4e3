"""What goes to the Hub with the weights."""

from .card import render_card

__all__ = ["render_card"]
