"""Data and sizes that a model cannot be fitted to are refused in one line."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from aevb.classical import (
    linear_gaussian,
    linear_gaussian_em,
    linear_regression,
    logistic_regression,
    normal_gamma,
    principal_components,
)
from aevb.classical.logistic_regression import Data

UNREAD: Any = None  # priors and known values, which come after the data
PCA = (
    linear_gaussian.maximum_likelihood,
    linear_gaussian.spherical_maximum,
    linear_gaussian_em.em,
    partial(
        linear_gaussian_em.variational_bayes,
        bias=UNREAD,
        noise_var=UNREAD,
        weight_precision=UNREAD,
    ),
    partial(principal_components.coordinate_ascent, prior=UNREAD),
)
REGRESSIONS = (
    partial(linear_regression.coordinate_ascent, prior=UNREAD),
    lambda design, y: logistic_regression.fit(Data(design, y), UNREAD),
    lambda design, y: logistic_regression.fit_mean_field(Data(design, y), UNREAD),
)
NORMAL = tuple(
    partial(door, UNREAD) for door in (normal_gamma.posterior, normal_gamma.coordinate_ascent)
)

# functions, their arguments, and words of the message
REFUSED = [
    (PCA, (np.zeros(3), 1), r"x has shape \(3,\); it must be \[N, D\]"),
    (PCA, (np.zeros((0, 3)), 1), "no axis may be empty"),
    (PCA, (np.array([[0.0, np.nan], [1.0, 2.0], [1.0, 1.0]]), 1), "x holds 1 values that"),
    (PCA, (np.zeros((9, 3)), 0), "num_latents is 0"),
    (PCA[:4], (np.zeros((9, 3)), 3), "from 1 to 2"),
    (PCA[:1], (np.ones((3, 6)), 2), "at least 4"),
    (REGRESSIONS, (np.zeros(3), np.zeros(3)), r"design has shape \(3,\)"),
    (REGRESSIONS, (np.zeros((0, 2)), np.zeros(0)), "no axis may be empty"),
    (REGRESSIONS, (np.full((2, 2), np.inf), np.zeros(2)), "design holds 4 values that are NaN or"),
    (REGRESSIONS, (np.zeros((2, 2)), np.array([0.0, np.nan])), "y holds 1 values"),
    (REGRESSIONS, (np.zeros((2, 2)), np.zeros(3)), "design 2 and y 3"),
    (REGRESSIONS[1:], (np.zeros((2, 1)), np.array([-1.0, 1.0])), "y holds 1 values that are nei"),
    (NORMAL, (np.array([1.0, np.nan]),), "x holds 1 values that are NaN"),
    (NORMAL, (np.ones((1, 1)),), r"x has shape \(1, 1\)"),
]


@pytest.mark.parametrize(("functions", "arguments", "words"), REFUSED)
def test_data_that_a_model_cannot_be_fitted_to_are_refused_in_one_line(
    functions: tuple[Callable[..., Any], ...], arguments: tuple[Any, ...], words: str
):
    for function in functions:
        with pytest.raises(ValueError, match=words) as caught:
            function(*(jnp.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments))
        assert "\n" not in str(caught.value)
