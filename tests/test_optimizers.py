"""Optimizers by name: the paper's Adagrad, optax's options, and refused arguments."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import scipy.stats
from marks import slow_but

from aevb import optimizers
from aevb.errors import UserError

STEP_SIZE = 0.1

# Optax's Adam divides by 1 - b1**count, a float raised to an integer power.
pytestmark = pytest.mark.usefixtures("standard_promotion")

# L-BFGS needs the loss itself for its line search; a step by a minibatch gradient has none.
NEEDS_MORE = {"lbfgs"}

OPTAX_OPTIMIZERS = sorted(
    name
    for name, maker in vars(optax).items()
    if not name.startswith("_")
    and inspect.isfunction(maker)
    and "learning_rate" in inspect.signature(maker).parameters
)


def random_gradients(num_steps: int = 6) -> list[dict[str, np.ndarray]]:
    """Returns gradients of a matrix, and of a vector whose second entry's gradient is always 0."""
    rng = np.random.default_rng(0)
    return [
        {
            "kernel": rng.normal(size=(3, 2)).astype(np.float32),
            "bias": (rng.normal(size=2) * [1.0, 0.0]).astype(np.float32),
        }
        for _ in range(num_steps)
    ]


def trajectory(optimizer: optax.GradientTransformation) -> list[dict[str, np.ndarray]]:
    """Returns the parameters after each of the random gradients, starting at 1."""
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    visited = []
    for gradient in random_gradients():
        updates, state = update(jax.tree.map(jnp.asarray, gradient), state, params)
        params = optax.apply_updates(params, updates)
        visited.append(jax.tree.map(np.asarray, params))
    return visited


def assert_close(visited: list, expected: list) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), visited, expected
    )


def refusal(name: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        optimizers.make(name, STEP_SIZE, options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("decayed", [(), ("kernel",), ("kernel", "bias")])
def test_adagrad_is_the_papers_in_numpy(decayed: tuple[str, ...]):
    """The oracle is theta -= step size * g / sqrt(sum of g^2), from an empty sum and no epsilon.

    g contains a decay of 0.3 times the parameters named.
    """
    params = {"kernel": np.ones((3, 2)), "bias": np.ones(2)}
    sums = {name: np.zeros_like(leaf) for name, leaf in params.items()}
    expected = []
    for gradient in random_gradients():
        for name, g in gradient.items():
            g = g.astype(np.float64) + 0.3 * params[name] * (name in decayed)
            sums[name] += g**2
            root = np.sqrt(sums[name])
            step = np.divide(g, root, out=np.zeros_like(root), where=root > 0.0)
            params[name] = params[name] - STEP_SIZE * step
        expected.append(dict(params))
    optimizer = optimizers.make(
        "adagrad",
        STEP_SIZE,
        weight_decay=0.3 if decayed else 0.0,
        mask=None if "bias" in decayed else optimizers.all_but_biases,
    )
    visited = trajectory(optimizer)
    assert_close(visited, expected)
    np.testing.assert_allclose(np.abs(visited[0]["kernel"] - 1.0), STEP_SIZE, rtol=1e-5)
    # the entry whose gradient is always 0
    assert all((point["bias"][1] == 1.0) == ("bias" not in decayed) for point in visited)


def test_adagrads_defaults_can_be_overridden():
    visited = trajectory(optimizers.make("adagrad", STEP_SIZE, {"initial_accumulator_value": 0.1}))
    assert_close(
        visited, trajectory(optax.adagrad(STEP_SIZE, initial_accumulator_value=0.1, eps=0.0))
    )


def test_adagrad_of_a_stack_is_each_members_own():
    """Each member has its own step size, which is a traced value."""
    grads, step_sizes = jnp.float32([[1.0, -2.0], [3.0, 0.0]]), jnp.float32([0.1, 0.2])

    def step(step_size, grads):
        optimizer = optimizers.make("adagrad", step_size)
        return optimizer.update(grads, optimizer.init(grads))[0]

    stepped = jax.jit(jax.vmap(step))(step_sizes, grads)
    np.testing.assert_allclose(stepped, [[-0.1, 0.1], [-0.2, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adam_with_options_is_adam_in_numpy(decay: float):
    """The decay is part of Adam's gradient, unlike that of AdamW."""
    b1, b2, eps = 0.5, 0.8, 1e-2
    theta, m, v = np.ones((3, 2)), np.zeros((3, 2)), np.zeros((3, 2))
    options = {"b1": b1, "b2": b2, "eps": eps}
    visited = trajectory(optimizers.make("adam", STEP_SIZE, options, weight_decay=decay))
    for t, (gradient, point) in enumerate(zip(random_gradients(), visited, strict=True), start=1):
        g = gradient["kernel"].astype(np.float64) + decay * theta
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        theta = theta - STEP_SIZE * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        np.testing.assert_allclose(point["kernel"], theta, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "rmsprop", "sgd"])
def test_an_optimizer_without_options_has_the_defaults_of_optax(name: str):
    expected = trajectory(getattr(optax, name)(STEP_SIZE))
    assert_close(trajectory(optimizers.make(name, STEP_SIZE)), expected)


def test_an_optimizer_option_can_be_a_bool():
    expected = trajectory(optax.sgd(STEP_SIZE, momentum=0.9, nesterov=True))
    assert_close(
        trajectory(optimizers.make("sgd", STEP_SIZE, {"momentum": 0.9, "nesterov": True})), expected
    )


@pytest.mark.parametrize(
    "name", ["adamm", "", "Adam", "chain", "apply_updates", "losses", "__doc__"]
)
def test_an_unknown_optimizer_is_refused_with_known_ones(name: str):
    message = refusal(name)
    assert repr(name) in message
    assert "adagrad" in message


@pytest.mark.parametrize(
    "options", [{"beta": 1.0}, {"b1": 0.9, "beta": 1.0}, {"learning_rate": 1.0}, {"b1": "high"}]
)
def test_an_unknown_option_of_an_optimizer_is_refused_with_the_known_ones(
    options: dict[str, Any],
):
    message = refusal("adam", **options)
    assert repr(options) in message
    assert "b1, b2, eps" in message
    assert "learning_rate," not in message.partition("can be")[2]


def test_adagrads_decay_is_no_option_because_it_is_the_prior():
    message = refusal("adagrad", weight_decay=0.1)
    assert "multiple values for keyword argument 'weight_decay'" in message
    assert message.endswith("optimizer.options can be initial_accumulator_value, eps")


def test_an_optimizer_option_that_divides_by_zero_is_refused():
    """RAdam divides by 1 - b2, which is 0 here."""
    assert "{'b2': 1.0}" in refusal("radam", b2=1.0)


@pytest.mark.parametrize("std", [1.0, 0.3])
def test_the_decay_of_a_prior_is_the_gradient_of_scipys_normal_over_n(std: float):
    theta = np.random.default_rng(0).normal(size=5)
    gradient = oracles.finite_difference(
        lambda theta: float(np.sum(scipy.stats.norm.logpdf(theta, scale=std))), theta
    )
    np.testing.assert_allclose(optimizers.prior_decay(std, 7) * theta, -gradient / 7, rtol=1e-6)


def test_a_flat_prior_has_no_decay():
    assert optimizers.prior_decay(np.inf, 7) == 0.0


QUICK = ("adafactor", "adagrad", "adam", "lbfgs", "rprop", "scale_by_rprop", "sgd", "yogi")


@pytest.mark.filterwarnings("ignore:Specifying a key", "ignore:`optimistic_adam`")
@pytest.mark.parametrize("name", slow_but(QUICK, OPTAX_OPTIMIZERS))
def test_every_optimizer_of_optax_steps_or_is_refused(name: str):
    if name in NEEDS_MORE:
        assert repr(name) in refusal(name)
        return
    optimizer = optimizers.make(name, STEP_SIZE, weight_decay=0.01)
    params = jnp.ones(3)
    updates, _ = optimizer.update(jnp.ones(3), optimizer.init(params), params)
    assert np.all(np.isfinite(np.asarray(updates)))
