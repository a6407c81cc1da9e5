"""Checks of data before training, with the figures that show a fault and what to change."""
