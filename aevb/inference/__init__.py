"""Inference that learns no encoder: Hamiltonian Monte Carlo, annealing, the search for a mode."""
