"""Sweeps: the grid of members, and where each of them is trained."""
