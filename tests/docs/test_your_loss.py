"""The page on troubleshooting: factors between losses of other libraries and the bound, in nats.

LOGGED holds what the libraries return for the arrays below, in float64: Keras 3.15.1 on PyTorch
2.13.0, PyTorch 2.13.0 and pythae 0.1.2, called as the loss of each row does. For Lightning Bolts
0.7.0 and PyTorch-VAE the calls of PyTorch that they make were repeated. disentanglement_lib needs
TensorFlow 1 and was only read, as was the beta of Higgins et al. (2017); they have no number.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import ROOT

from aevb import guides, likelihoods
from aevb.distributions import DiagNormal, StandardNormal
from aevb.doctor.hints import CAUSES
from aevb.likelihoods import Likelihood
from aevb.losses import Joint, beta_elbo

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()

BINARY = np.array([[1.0, 0, 1, 0], [0, 1, 1, 0], [1, 1, 0, 1]])  # [M, D]
GREY = np.array([[0.25, 0.5, 0.75, 0], [1, 0.1, 0.6, 0.3], [0.9, 0.2, 0.4, 0.8]])
LOGITS = np.array([[0.3, -1.2, 2, -0.4], [-0.7, 0.9, 0.1, -2], [1.5, 0.2, -0.6, 0.8]])
MEAN = np.array([[0.5, -1], [1.5, 0.25], [-0.3, 0.8]])  # [M, Z]
LOG_VAR = np.array([[-0.5, 0.2], [-1, -2], [0.1, -0.7]])
PREDICTED = 1 / (1 + np.exp(-LOGITS))
SIZES = {"M": 3, "D": 4, "Z": 2}
WEIGHTS = {"beta": 4.0, "beta_norm": 0.7, "C": 1, "kl_coeff": 0.1, "kld_weight": 0.00025}

BETA_1 = {"beta": 1.0}
LOGGED = {  # row of the page -> weights other than above, the value
    "Keras, the VAE example": ({}, 2.5480295419692993),
    "Keras, means over pixels and latents": ({}, 0.8922325968742371),
    "PyTorch, `examples/vae`": ({}, 7.644088515855538),
    "`BCELoss()` + KL": ({}, 1.402682921839784),
    "pythae, `reconstruction_loss=bce`": (BETA_1, 2.548029505285179),
    "pythae, `reconstruction_loss=mse`": ({}, 4.3097605395857785),
    "`mse_loss(reduction=sum)` + KL": ({}, 4.419647962996965),
    "`MSELoss()` + KL": ({}, 1.133979542434903),
    "Lightning Bolts, `VAE`": ({}, 0.16412385144481656),
    "PyTorch-VAE": ({}, 0.11333404025875676),
}
NOT_RUN = {"disentanglement_lib, `bernoulli_loss`", "disentanglement_lib, `l2_loss`"}
NOT_RUN |= {"Higgins et al., β_norm"}


def rows(title: str) -> dict[str, list[str]]:
    """Returns the rows of the table under a heading: first cell -> other cells."""
    lines = PAGE.split(f"### {title}\n")[1].split("\n### ")[0].split("\n## ")[0].splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in lines
        if line.startswith("|")
    ]
    return {first: rest for first, *rest in cells[2:]}


def value(cell: str, weights: dict[str, float]) -> float:
    """Returns the value of a formula of a cell, such as `kl_coeff * D / (2 * Z)`."""
    [formula] = re.findall("`(.+)`", cell)
    return eval(formula, {}, SIZES | WEIGHTS | weights)


CROSS_ENTROPIES, SQUARES = rows("Binary cross-entropy"), rows("Squared error")


def cross_entropies(x: np.ndarray) -> np.ndarray:
    """Returns the sum over pixels of each datapoint [M], in nats."""
    return -np.sum(x * np.log(PREDICTED) + (1 - x) * np.log(1 - PREDICTED), axis=1)


def squares() -> np.ndarray:
    """Returns the squared error of each datapoint [M], summed over its pixels."""
    return np.sum((GREY - PREDICTED) ** 2, axis=1)


def kls() -> np.ndarray:
    """Returns KL(q(z|x) || N(0, I)) of each datapoint [M], in nats."""
    return 0.5 * np.sum(MEAN**2 + np.exp(LOG_VAR) - LOG_VAR - 1, axis=1)


def mean_bound(
    likelihood: Likelihood, heads: dict[str, np.ndarray], x: np.ndarray, beta: float = 1.0
) -> float:
    """Returns the mean over datapoints of `beta_elbo` of this package, in nats, in float64."""

    def bound(heads: dict, x: jax.Array, mean: jax.Array, log_var: jax.Array) -> jax.Array:
        joint = Joint(StandardNormal(2), lambda z: likelihood.log_prob(heads, x))
        stats = DiagNormal(mean, log_var)
        return beta_elbo(jax.random.key(0), stats, guides.diag_normal, joint, beta=beta)

    with jax.enable_x64(True):
        arrays = jax.tree.map(jnp.asarray, (heads, x, MEAN, LOG_VAR))
        return float(jnp.mean(jax.vmap(bound)(*arrays)))


def test_every_row_of_the_page_has_the_number_of_a_library_or_was_read():
    assert {*CROSS_ENTROPIES, *SQUARES} == {*LOGGED} | NOT_RUN


@pytest.mark.parametrize("name", LOGGED)
def test_the_factors_of_the_page_give_the_loss_that_the_library_returns(name: str):
    weights, logged = LOGGED[name]
    table, terms = (
        (CROSS_ENTROPIES, cross_entropies(BINARY))
        if name in CROSS_ENTROPIES
        else (SQUARES, squares())
    )
    a, b = (value(cell, weights) for cell in table[name][:2])
    assert np.mean(a * terms + b * kls()) == pytest.approx(logged, rel=1e-6)


@pytest.mark.parametrize("name", CROSS_ENTROPIES)
def test_a_cross_entropy_is_a_times_the_negative_bound_with_the_beta_of_the_page(name: str):
    a, b, beta = (value(cell, {}) for cell in CROSS_ENTROPIES[name])
    loss = np.mean(a * cross_entropies(BINARY) + b * kls())
    bound = mean_bound(likelihoods.bernoulli, {"logits": LOGITS}, BINARY, beta)
    assert loss == pytest.approx(-a * bound, rel=1e-9)


@pytest.mark.parametrize("name", SQUARES)
def test_a_squared_error_is_a_gaussian_with_the_variance_of_the_page(name: str):
    a, b, variance = (value(cell, {}) for cell in SQUARES[name])
    loss = np.mean(a * squares() + b * kls())
    heads = {"mean": PREDICTED, "log_var": np.full_like(GREY, np.log(variance))}
    bound = mean_bound(likelihoods.gaussian, heads, GREY)
    constant = 0.5 * SIZES["D"] * np.log(2 * np.pi * variance)
    assert loss == pytest.approx(-b * (bound + constant), rel=1e-9)
    # With another variance, it is the same loss with another beta.
    heads["log_var"] = np.full_like(GREY, np.log(0.04))
    bound = mean_bound(likelihoods.gaussian, heads, GREY, variance / 0.04)
    constant = 0.5 * SIZES["D"] * np.log(2 * np.pi * 0.04)
    assert loss == pytest.approx(-2 * 0.04 * a * (bound + constant), rel=1e-9)


def test_a_gaussian_nll_loss_is_the_negative_log_likelihood_only_if_full_and_summed():
    variance = np.full_like(GREY, 0.04)
    log_lik = np.mean(-0.5 * squares() / 0.04) - 2 * np.log(2 * np.pi * 0.04)
    heads = {"mean": PREDICTED, "log_var": np.log(variance)}
    assert mean_bound(likelihoods.gaussian, heads, GREY, 0.0) == pytest.approx(log_lik)
    assert -log_lik == pytest.approx(2.891943236928153)  # full=True, reduction=sum, divided by M
    default = -log_lik / 4 - 0.5 * np.log(2 * np.pi)
    assert default == pytest.approx(-0.1959527239726346)


def test_a_cross_entropy_of_grey_pixels_lacks_the_constant_of_a_continuous_bernoulli():
    found = mean_bound(likelihoods.continuous_bernoulli, {"logits": LOGITS}, GREY, 0.0)
    assert found == pytest.approx(0.19431498063713548, rel=1e-7)  # PyTorch's ContinuousBernoulli
    missing = np.log(LOGITS / np.tanh(LOGITS / 2))  # log C of Loaiza-Ganem & Cunningham (2019)
    assert np.mean(cross_entropies(GREY)) == pytest.approx(2.922128777927193)  # PyTorch's sum / M
    assert found == pytest.approx(np.mean(missing.sum(1) - cross_entropies(GREY)), rel=1e-7)
    assert np.min(missing) > np.log(2)


def test_a_probability_that_is_clipped_bounds_the_cross_entropy_and_a_logit_does_not():
    assert -np.log(1e-7) == pytest.approx(16.11809539794922)  # Keras, of p = 0 and x = 1
    found = likelihoods.bernoulli.log_prob({"logits": jnp.array([-200.0])}, jnp.array([1.0]))
    assert float(found) == -200.0  # PyTorch returns 100 for p = 0


def test_the_page_has_every_cause_that_the_diagnosis_of_runs_names():
    lines = re.findall("^- Doctor: .*$", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(lines))) == set(CAUSES)
