"""Classical variational Bayes: the models with known answers from which the VAE developed.

Each file holds one model or one idea; docs/variational_bayes.md presents them in order. Like the
rest of the mathematics, these modules import only jax (and optax when L-BFGS is used), compute in
the dtype of their inputs and return nats.
"""

from aevb.classical import beta_bernoulli as beta_bernoulli
from aevb.classical import cholesky as cholesky
from aevb.classical import coordinate_ascent as coordinate_ascent
from aevb.classical import correlated_gaussian as correlated_gaussian
from aevb.classical import decomposition as decomposition
from aevb.classical import divergences as divergences
from aevb.classical import families as families
from aevb.classical import functionals as functionals
from aevb.classical import gaussian_mixture as gaussian_mixture
from aevb.classical import gibbs as gibbs
from aevb.classical import linear_gaussian as linear_gaussian
from aevb.classical import linear_gaussian_em as linear_gaussian_em
from aevb.classical import linear_gaussian_missing as linear_gaussian_missing
from aevb.classical import linear_regression as linear_regression
from aevb.classical import logistic_regression as logistic_regression
from aevb.classical import matrix_normal as matrix_normal
from aevb.classical import mixture_basis as mixture_basis
from aevb.classical import mixture_data as mixture_data
from aevb.classical import mixture_gibbs as mixture_gibbs
from aevb.classical import mixture_hierarchy as mixture_hierarchy
from aevb.classical import mixture_merges as mixture_merges
from aevb.classical import mixture_model as mixture_model
from aevb.classical import mixture_runs as mixture_runs
from aevb.classical import mixture_search as mixture_search
from aevb.classical import mixture_seeds as mixture_seeds
from aevb.classical import normal_gamma as normal_gamma
from aevb.classical import normal_wishart as normal_wishart
from aevb.classical import observations as observations
from aevb.classical import principal_components as principal_components
from aevb.classical import variational_problems as variational_problems
