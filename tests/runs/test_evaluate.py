"""The side that the evaluation of a run reports for each estimator."""

import jax.numpy as jnp
import pytest

from aevb.marginal import ESTIMATORS, Estimate
from aevb.runs.evaluate import kind_of


@pytest.mark.parametrize(
    ("claims", "kind"),
    [
        ((True,) * 3, "upper"),
        ((True, False, True), "upper at 2 of 3"),
        ((False,), "upper at 0 of 1"),
    ],
)
def test_the_mean_is_an_upper_bound_only_if_every_datapoint_has_one(
    claims: tuple[bool, ...], kind: str
):
    zeros = jnp.zeros(len(claims))
    found = Estimate(zeros, zeros, {"is_upper_bound": jnp.array(claims)})
    assert kind_of(ESTIMATORS["appendix_d"], found) == kind


def test_an_estimator_without_r_hat_keeps_its_side():
    found = Estimate(jnp.zeros(3), jnp.zeros(3), {"acceptance": jnp.ones(3)})
    assert kind_of(ESTIMATORS["ais"], found) == "lower"
    assert kind_of(ESTIMATORS["reverse_ais"], found) == "upper"
