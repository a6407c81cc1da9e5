"""Inference without an encoder: Hamiltonian Monte Carlo, annealing, importance weights, L-BFGS."""

from aevb.inference import annealed_importance_sampling as annealed_importance_sampling
from aevb.inference import hmc as hmc
from aevb.inference import importance_weights as importance_weights
from aevb.inference import lbfgs as lbfgs
