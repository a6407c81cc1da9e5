"""Figures and pages of single runs, and of comparisons of runs."""
