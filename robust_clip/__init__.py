"""CLIP models that adversaries cannot fool, and an honest number for how well they hold."""
