"""The programs of this repository, run as a user does."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
ON_THE_CPU = {"JAX_PLATFORMS": "cpu"}
# Where the bits of a long run are compared: not in haste, as conftest.py may have asked for.
OPTIMISED = ON_THE_CPU | {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}


def run_python(
    *arguments: object, input: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What became of `python arguments`, started at the root; env is added to the environment."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **ON_THE_CPU, **(env or {})},
        input=input,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def python(*arguments: object, input: str = "") -> str:
    """What a program that succeeds prints."""
    done = run_python(*arguments, input=input)
    assert done.returncode == 0, done.stderr
    return done.stdout
