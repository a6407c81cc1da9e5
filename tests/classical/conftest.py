"""Float64, in which most of these models are compared with exact answers."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def float64(request: pytest.FixtureRequest) -> Iterator[None]:
    """Switches to float64, except in a file with `IN_FLOAT32 = True`."""
    with jax.enable_x64(not getattr(request.module, "IN_FLOAT32", False)):
        yield
