"""Runs the programs of this repository, in the test's process or in another one."""

import contextlib
import io
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax

from aevb.runtime.signals import CAUGHT

ROOT = Path(__file__).parent.parent.parent
ON_THE_CPU = {"JAX_PLATFORMS": "cpu"}
# Options for comparing the bits of a long run: conftest.py may have turned optimizations off.
OPTIMIZED = ON_THE_CPU | {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}


class Done(NamedTuple):
    """The exit status and output of a program that has ended."""

    returncode: int
    stdout: str
    stderr: str


def run_program(*arguments: object) -> Done:
    """Runs `python arguments` at the root, in this process, which saves starting another.

    The arguments begin with a script's path, or with -m and a module. What a program changes in its
    process (signals, the command line, modules beside a script) is restored.
    """
    first, *rest = map(str, arguments)
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        _process_state(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        try:
            if first == "-m":
                sys.argv = rest
                runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
            else:
                script = (ROOT / first).resolve()
                sys.argv = [first, *rest]
                sys.path.insert(0, str(script.parent))
                runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Done(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _process_state() -> Iterator[None]:
    argv, path = sys.argv, list(sys.path)
    handlers = {number: signal.getsignal(number) for number in CAUGHT}
    try:
        with contextlib.chdir(ROOT), modules_of(ROOT / "experiments"):
            yield
    finally:
        sys.argv, sys.path[:] = argv, path
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def modules_of(folder: Path) -> Iterator[None]:
    """Allows imports from a folder of scripts, and forgets its modules afterwards."""
    path, modules = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file and folder in Path(file).parents:
                del sys.modules[name]


def program(*arguments: object) -> str:
    """Runs a program in this process, checks that it succeeds, and returns what it prints."""
    done = run_program(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def start_python(*arguments: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts `python arguments` at the root; env is added to the environment."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **ON_THE_CPU, **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], *, input: str = "", seconds: float = 600.0) -> Done:
    """Waits for a process and returns its exit status and output."""
    try:
        out, err = process.communicate(input, timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Done(process.returncode, out, err)


def wait_for(ready: Callable[[], object], *processes: subprocess.Popen[str]) -> None:
    """Waits until `ready` holds, while none of the processes ends."""
    while not ready():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


def run_python(*arguments: object, input: str = "", env: Mapping[str, str] | None = None) -> Done:
    """Runs `python arguments` at the root in another process; env is added to the environment."""
    return ended(start_python(*arguments, env=env), input=input)


def python(*arguments: object, input: str = "") -> str:
    """Runs a program in its own process, checks that it succeeds, and returns what it prints."""
    done = run_python(*arguments, input=input)
    assert done.returncode == 0, done.stderr
    return done.stdout


ABSENT = """
import sys
class Absent:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""


def python_without(names: set[str], code: str, folder: Path) -> str:
    """Runs a program in a folder, in a process that has not the libraries of these names."""
    done = subprocess.run(
        [sys.executable, "-c", ABSENT.format(names=names) + code],
        cwd=folder, env={**os.environ, **ON_THE_CPU}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
