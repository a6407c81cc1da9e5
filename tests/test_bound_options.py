"""The options of a bound reach it from a config, or are refused before training."""

import math
from typing import Any

import jax
import pytest
from cases import joint_of, make_case
from marks import slow_but

from aevb.config import Values, default_config, validate
from aevb.errors import UserError
from aevb.experiment import build_bound
from aevb.guides import diag_normal
from aevb.losses import BOUNDS


def values_of(bound: str, options: dict[str, Any], num_samples: int) -> Values:
    config = default_config()
    config.algorithm.bound = bound
    config.algorithm.bound_options.update(options)
    config.algorithm.num_samples = num_samples
    return validate(config)


def refusal(
    bound: str, num_samples: int = 6, *, has: tuple[bool, bool] = (True, True), **options: Any
) -> str:
    """Returns the message about a bound of a guide that has a KL, and a KL of each latent."""
    with pytest.raises(UserError) as caught:
        build_bound(values_of(bound, options, num_samples), *has)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert bound in message
    return message


REACH = [
    ("sgvb_b", {}),
    ("renyi", {"alpha": 0.25}),
    ("miwae", {"num_groups": 3}),
    ("ciwae", {"beta": 1.0}),
    ("beta_elbo", {"beta": 2.5}),
    ("free_bits", {"free_nats": 7.0}),
    ("free_bits_per_unit", {"free_nats": 7.0}),
]


@pytest.mark.parametrize(("name", "options"), slow_but(REACH[1:3], REACH, unpack=True))
def test_the_options_of_a_config_reach_its_bound(name: str, options: dict[str, Any]):
    case = make_case(4, 2, seed=1)
    built = build_bound(values_of(name, options, 6), has_closed_kl=True, has_kl_per_unit=True)
    bound: Any = BOUNDS[name]

    @jax.jit
    def evaluate(key: jax.Array) -> tuple[jax.Array, ...]:
        model = (key, case.stats(), diag_normal, joint_of(case.model, case.x))
        expected = bound(*model, num_samples=6, **options)
        return built(*model, num_samples=6), expected, bound(*model, num_samples=6)

    value, expected, without_options = evaluate(jax.random.key(0))
    assert value == expected
    assert not options or value != without_options


@pytest.mark.parametrize("name", BOUNDS)
def test_every_bound_is_built_with_its_defaults(name: str):
    build_bound(values_of(name, {}, 2), has_closed_kl=True, has_kl_per_unit=True)


def test_an_unknown_option_of_a_bound_is_refused_with_the_known_ones():
    unknown = "config.algorithm.bound_options.alpha is unknown; "
    assert unknown + "iwae has the options (none)" in refusal("iwae", alpha=0.3)
    assert unknown + "ciwae has the options beta" in refusal("ciwae", alpha=0.3)


@pytest.mark.parametrize("value", [math.nan, math.inf, None, [1.0]])
def test_an_option_that_is_no_finite_number_or_text_is_refused(value: Any):
    with pytest.raises(UserError, match="it must be a finite number, a bool, a string"):
        values_of("renyi", {"alpha": value}, 6)


@pytest.mark.parametrize(
    ("name", "options", "num_samples", "words"),
    [
        ("renyi", {"alpha": -1.0}, 6, "alpha is -1.0"),
        ("ciwae", {"beta": 1.5}, 6, "from 0 to 1"),
        ("miwae", {"num_groups": 4}, 6, "num_groups is 4; it must divide num_samples, which is 6"),
        ("miwae", {"num_groups": 1.5}, 6, "num_groups is 1.5"),
        ("miwae", {}, 1, "num_samples, which is 1"),
        ("score_function_loo", {}, 1, "num_samples is 1; it must be at least 2"),
    ],
)
def test_values_that_a_bound_refuses_are_refused_before_training(
    name: str, options: dict[str, Any], num_samples: int, words: str
):
    message = refusal(name, num_samples, **options)
    assert words in message
    assert "config.algorithm.num_samples" in message


def test_a_bound_that_needs_a_closed_kl_is_refused_before_training_where_there_is_none():
    assert "sgvb_a" in refusal("sgvb_b", has=(False, False))
    message = refusal("free_bits_per_unit", has=(True, False))
    assert "use free_bits or sgvb_a" in message
    assert "config.model.guide" in message
    build_bound(values_of("sgvb_a", {}, 1), has_closed_kl=False, has_kl_per_unit=False)
