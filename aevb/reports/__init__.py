"""Figures and pages of a run, and of runs beside one another."""
