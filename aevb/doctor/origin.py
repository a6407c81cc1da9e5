"""Finds the line of source code where a function's result becomes non-finite."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

PACKAGE = str(Path(__file__).parent.parent)
LIBRARIES = str(Path(jax.__file__).parent.parent)


def origin_of(function: Callable[..., Any], *args: Any) -> str:
    """Describes the source line where the first NaN or infinity of `function(*args)` arises.

    The function is called without jit, so that JAX checks the result of every operation; a gradient
    is checked too, if the function computes one. Infinities are sought only if no NaN is found,
    since a log-density may be -inf on purpose.

    Returns:
        The operation and the last line of the package or of the user that leads to it, or that
        there is none.
    """
    for looks_for in (jax.debug_nans, jax.debug_infs):
        try:
            with jax.disable_jit(), looks_for(True):
                function(*args)
        except FloatingPointError as error:
            frames = traceback.extract_tb(error.__traceback__)
            line = [frame for frame in frames if is_ours(frame.filename)][-1]
            problem = str(error).splitlines()[0]
            return f"{problem}, at {Path(line.filename).name}:{line.lineno}: {line.line}"
    return "no operation by itself has such a result, but only the compiled step"


def is_ours(file: str) -> bool:
    """Returns whether a source file is in this package or in user code, not in a library."""
    return file.startswith(PACKAGE) or not file.startswith(LIBRARIES)
