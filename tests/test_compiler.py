"""What XLA is asked for: an option of another version does not stand in the way."""

import jax
import pytest

from aevb import compiler


@pytest.fixture(autouse=True)
def forget():
    compiler.training_options.cache_clear()
    yield
    compiler.training_options.cache_clear()


def test_the_options_are_known_to_the_xla_that_is_installed():
    assert compiler.training_options() == compiler.CPU_OPTIONS


def test_an_option_that_xla_does_not_have_is_left_out(monkeypatch: pytest.MonkeyPatch):
    options = {"xla_cpu_of_another_version": True, "xla_cpu_prefer_vector_width": 256}
    monkeypatch.setattr(compiler, "CPU_OPTIONS", options)
    kept = compiler.training_options()
    assert kept == {"xla_cpu_prefer_vector_width": 256}
    assert jax.jit(lambda x: x + 1, compiler_options=kept)(1) == 2
