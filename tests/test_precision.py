"""Every public function of the mathematics computes in the dtype of its inputs, and float32 agrees.

x64 is on in all of these tests; in the rest of the suite it is off, except in tests/classical.
"""

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import precision_cases
import pytest
from marks import slow_but
from precision_cases import CASES, Case, cast

MODULES = (
    "losses", "distributions", "likelihoods", "priors", "guides", "guides.flows", "proposals",
    "marginal", "convolutions", "evaluation.diagnostics", "factors", "latents", "missing",
    "labels", "sequences", "discrete", "enumeration",
    *(f"reparam.{name}" for name in precision_cases.modules_of("reparam")),
    *(f"inference.{name}" for name in precision_cases.modules_of("inference")),
    *(f"classical.{name}" for name in precision_cases.modules_of("classical")),
    *(f"algorithms.{name}" for name in precision_cases.modules_of("algorithms")),
)  # fmt: skip


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def public_functions(module: str) -> Iterator[str]:
    """Yields the names of the functions and methods that a module defines."""
    code = importlib.import_module(f"aevb.{module}")
    for name, found in vars(code).items():
        if name.startswith("_") or getattr(found, "__module__", "") != code.__name__:
            continue
        if inspect.isclass(found) and not getattr(found, "_is_protocol", False):
            for method, defined in vars(found).items():
                if not method.startswith("_") and inspect.isfunction(defined):
                    yield f"{module}.{name}.{method}"
        elif callable(found) and not inspect.isclass(found):
            yield f"{module}.{name}"


def test_every_public_function_of_the_mathematics_has_a_case_or_a_reason_for_none():
    public = {name for module in MODULES for name in public_functions(module)}
    named = {name for case in CASES.values() for name in case.names}
    assert not public - named - precision_cases.WITHOUT_FLOATS.keys()
    assert not precision_cases.WITHOUT_FLOATS.keys() - public


def dtypes_in(result: Any) -> set[Any]:
    """Returns the dtypes of the floats in a result or in its shapes."""
    leaves = [leaf for leaf in jax.tree.leaves(result) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert leaves
    return {leaf.dtype for leaf in leaves}


def traced_dtypes(case: Case, dtype: type) -> set[Any]:
    with jax.numpy_dtype_promotion("standard" if case.promotes else "strict"):
        return dtypes_in(jax.eval_shape(case.call, *cast(case.arguments, dtype)))


def is_quick(name: str) -> bool:
    """Checks whether a case is traced in little time, and no other file of tests is in float64."""
    slow = ("algorithm", "classical.", "family: ", "guide: ", "estimator: ", "proposals.")
    return not name.startswith((*slow, "evaluation.diagnostics.inference_gaps"))


TRACED = [name for name, case in CASES.items() if is_quick(name) or not case.is_comparable]


@pytest.mark.parametrize("name", slow_but(filter(is_quick, CASES), TRACED))
def test_a_function_returns_the_dtype_of_its_inputs(name: str):
    """A function without an array among its inputs returns JAX's default dtype.

    The cases that are left out are compared below, with their dtypes.
    """
    case = CASES[name]
    if case.takes_floats:
        assert traced_dtypes(case, jnp.float32) == {jnp.dtype(jnp.float32)}
    assert traced_dtypes(case, jnp.float64) == {jnp.dtype(jnp.float64)}


def floats(result: Any) -> list[np.ndarray]:
    """Returns the leaves of a result as float64, in which random keys do not count."""
    return [
        np.asarray(leaf, np.float64)
        for leaf in jax.tree.leaves(result)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]


@pytest.fixture
def float32_noise(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draws noise in float32; no program with other noise is reused, and none is kept.

    The programs of all cases together would take gigabytes.
    """
    jax.clear_caches()
    precision_cases.draw_in_float32(monkeypatch)
    yield
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.is_comparable])
@pytest.mark.usefixtures("float32_noise")
def test_every_function_in_float32_agrees_with_float64(name: str):
    """Both have the same noise, which is drawn in float32; `Case.tolerance` says how closely."""
    case = CASES[name]
    with jax.numpy_dtype_promotion("standard" if case.promotes else "strict"):
        narrow, wide = (
            jax.jit(case.call)(*cast(case.arguments, dtype)) for dtype in (jnp.float32, jnp.float64)
        )
    if case.takes_floats:
        assert dtypes_in(narrow) == {jnp.dtype(jnp.float32)}
    assert dtypes_in(wide) == {jnp.dtype(jnp.float64)}
    for found, expected in zip(floats(narrow), floats(wide), strict=True):
        assert not np.any(np.isnan(expected))
        scale = np.max(np.abs(expected[np.isfinite(expected)]), initial=1e-3)
        np.testing.assert_allclose(found, expected, rtol=0.0, atol=case.tolerance * scale)
