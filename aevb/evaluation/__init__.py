"""Scores of a trained model: the bound, log p(x), and diagnostics of both."""
