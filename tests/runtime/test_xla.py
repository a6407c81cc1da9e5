"""XLA flags: an option of another version does not prevent a start."""

import jax
import pytest
from programs import OPTIMIZED, run_python

from aevb.runtime import xla


@pytest.fixture(autouse=True)
def forget():
    xla.training_options.cache_clear()
    yield
    xla.training_options.cache_clear()


def test_the_installed_xla_accepts_all_options():
    assert xla.training_options() == xla.CPU_OPTIONS


def test_an_option_that_xla_does_not_have_is_left_out(monkeypatch: pytest.MonkeyPatch):
    options = {"xla_cpu_of_another_version": True, "xla_cpu_prefer_vector_width": 256}
    monkeypatch.setattr(xla, "CPU_OPTIONS", options)
    kept = xla.training_options()
    assert kept == {"xla_cpu_prefer_vector_width": 256}
    assert jax.jit(lambda x: x + 1, compiler_options=kept)(1) == 2


LOG_2_IS_LOST = """
import sys
import aevb.runtime.xla, jax, jax.numpy as jnp
log_ratio = lambda t: jnp.log(0.5 * t) - (jnp.log(t) + jnp.sum(jnp.arange(3.0) - t))
t = jnp.linspace(1.0, 2.0, 10_000)
error = jax.jit(jax.vmap(log_ratio))(t) - (3.0 * t - 3.0 - jnp.log(2.0))
sys.exit(bool(jnp.abs(error).max() > 1e-4))
"""


def test_the_options_prevent_the_wrong_sums_of_jax_0_10_2():
    """Without aevb's settings, jax 0.10.2 loses log 2 here (jax-ml/jax#39103)."""
    assert run_python("-c", LOG_2_IS_LOST, env=OPTIMIZED).returncode == 0
