"""The flag --debug: the source line of a NaN or an infinity, and leaked tracers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import run_program, run_python

from aevb import losses
from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.config import default_config, validate, with_values
from aevb.doctor import origin
from aevb.experiment import build
from aevb.training import loop, nonfinite
from aevb.training.nonfinite import BadStep

KEYS = loop.run_keys(jax.random.key(0)).loop


def never(*arguments: object):
    raise AssertionError("the compiled steps are not taken")


def taken(algorithm: Algorithm, state: TrainState, data: jax.Array) -> str:
    bad = BadStep(0, "", np.arange(3), state, state)
    steps = loop.Steps(never, KEYS, data, batch_size=3)
    return nonfinite.origin(algorithm, lambda key, x: x, steps, bad)


def of_objective(objective) -> Algorithm:
    """Returns an algorithm that learns nothing and has this objective."""

    def update(key: jax.Array, state: TrainState, batch: Batch):
        return state, {"objective": objective(batch.x)}

    return Algorithm(lambda key: TrainState(jnp.int32(0), (), (), ()), update)


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (lambda x: jnp.sum(jax.jit(jnp.log)(x - 1.0)), ("nan", "log")),
        (lambda x: jnp.sum(jnp.exp(jax.nn.softplus(x) + 100.0)), ("inf", "exp")),
        (lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y / (y - y), jnp.sum(x)), ("nan", "div")),
    ],
    ids=["a NaN within jit", "an infinity", "a NaN in a loop"],
)
def test_the_source_line_of_a_nonfinite_number_is_named(objective, words: tuple[str, ...]):
    algorithm = of_objective(objective)
    found = taken(algorithm, algorithm.init(KEYS.step), jnp.zeros((3, 2)))
    assert all(word in found for word in words)
    assert f"{Path(__file__).name}:" in found


def test_a_nonfinite_number_of_only_the_compiled_step_is_reported_as_such():
    algorithm = of_objective(jnp.sum)
    found = taken(algorithm, algorithm.init(KEYS.step), jnp.zeros((3, 2)))
    assert "only the compiled step" in found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aevb", "full_vb", "wake_sleep", "mcem"])
def test_the_search_for_a_nonfinite_number_covers_every_algorithm(name: str):
    """Weights of 1e30 overflow in the first place where two of them are multiplied."""
    changes = {"algorithm.name": name, "model.hidden": (5,)}
    dataset, _, algorithm = build(validate(with_values(default_config(), changes)))
    state = loop.first_state(algorithm.init, jax.random.key(0))
    huge = state._replace(params=jax.tree.map(lambda leaf: leaf * 1e30, state.params))
    found = taken(algorithm, huge, jnp.asarray(dataset.train) / 256)
    assert "invalid value" in found
    assert ".py:" in found


@pytest.mark.slow
def test_a_run_names_the_source_line_of_a_nan_objective(tmp_path: Path):
    """Step sizes of 1e20 make weights whose products overflow float32 at the second step."""
    flags = (
        "--config=experiments/figure_4_frey.py", f"--workdir={tmp_path / 'run'}",
        "--config.optimizer.step_size=1e20", "--config.train.num_examples=1000",
    )  # fmt: skip
    without = run_program("experiments/run.py", *flags)
    assert without.returncode == 2
    assert "--debug" in without.stderr
    found = run_program("experiments/run.py", *flags, "--debug")
    assert found.returncode == 2
    assert "at fully_connected.py:" in found.stderr
    assert "step 2 " in found.stderr
    assert "--debug" not in found.stderr


@pytest.mark.slow
def test_no_tracer_leaks_where_a_library_is_first_loaded_within_a_trace(tmp_path: Path):
    """The library is blackjax, which creates arrays when it is imported."""
    done = run_python(
        "experiments/run.py", "--config=experiments/figure_4_frey.py",
        f"--workdir={tmp_path / 'run'}", "--config.algorithm.name=mcem",
        "--config.model.hidden=(5,)", "--config.train.num_examples=300",
        "--config.train.eval_examples=10", "--debug",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_installed_package_is_not_counted_as_a_library(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(origin, "LIBRARIES", str(Path(losses.__file__).parent.parent))
    assert origin.is_ours(losses.__file__)
    assert not origin.is_ours(str(Path(origin.LIBRARIES) / "optax" / "losses.py"))
