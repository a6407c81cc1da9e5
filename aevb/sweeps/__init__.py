"""Sweeps: the grid of members, and their training on devices or as jobs."""
