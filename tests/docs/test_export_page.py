"""The page on exported models: its program runs where this package is not installed."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import ROOT, python_without

import aevb

PAGE = (ROOT / "docs" / "how_to" / "export.md").read_text()
[LOAD] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_the_program_of_the_page_loads_the_frey_faces_without_this_package(
    faces: Path, tmp_path: Path
):
    run = aevb.load_run(faces)
    run.export(tmp_path / "exported")
    code = LOAD + "\nnp.savez('found.npz', faces=faces, **posterior)"
    python_without({"aevb", "flax", "optax", "orbax", "safetensors"}, code, tmp_path)
    found = np.load(tmp_path / "found.npz")
    x = jnp.full((3, 28, 20), 128.0)
    posterior = jax.vmap(run.encode)(x)
    np.testing.assert_allclose(found["log_var"], posterior.log_var, rtol=1e-4, atol=1e-5)
    expected = jax.vmap(run.decode)(posterior.mean)
    np.testing.assert_allclose(found["faces"], expected, rtol=1e-4)
