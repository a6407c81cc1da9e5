"""Strict JAX for every test: no silent promotion of types or ranks, on the CPU.

x64 stays off, as in training; the oracles are float64 in NumPy.
"""

import gc
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from made_once import made_once

from aevb.runtime import xla

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
MOST_LOWERED = 400  # programs that a process keeps
# JAX keeps what it has traced, and Python's garbage collector would scan it again and again.
gc.set_threshold(100_000, 50, 100)
# Most of the time goes into compiling programs that run only briefly; this saves a third of it.
jax.config.update("jax_disable_most_optimizations", True)


def pytest_configure(config: pytest.Config) -> None:
    """Sets compiler flags that halve the compilation time if the slow tests are left out.

    The flags select XLA's older emitters, here and in the processes that tests start. With the slow
    tests, the programs are compiled as they are for users.

    All workers, the processes that they start and later sessions share the cache of compiled
    programs. A program that has changed is another entry of it.
    """
    xla.use_cache()
    if "not slow" in config.option.markexpr:
        xla.add_flags(
            "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        )
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files of tests/runs and those with slow tests first, so that none starts last."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.parent.name != "runs", -slow[item.path]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints how long the tests of each folder took, in seconds of all workers together."""
    seconds: dict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                folder = report.nodeid.partition("::")[0].rpartition("/")[0]
                seconds[folder] += report.duration
    terminalreporter.section("seconds by folder")
    for folder, total in sorted(seconds.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(f"{total:8.1f}  {folder}/")


_num_lowered = 0


def _count_lowered(event: str, duration_secs: float, **kwargs: str | int) -> None:
    del duration_secs, kwargs
    global _num_lowered
    _num_lowered += event.endswith("jaxpr_to_mlir_module_duration")


jax.monitoring.register_event_duration_secs_listener(_count_lowered)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Drops what JAX has lowered: beside thousands of live programs it takes several times longer.

    It is not done after each file of tests, because the traces of common functions are dropped too.
    """
    yield
    global _num_lowered
    if _num_lowered > MOST_LOWERED:
        jax.clear_caches()
        _num_lowered = 0


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of the finished run of small_run.py, which tests read and copy."""
    return made_once(tmp_path_factory, "small_run", lambda folder: _train(folder, {}))


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a finished run on the Frey faces with two latents, to read and copy."""
    values = {"model.hidden": (20,), "train.num_examples": 2000, "train.first_eval": 1000}
    return made_once(tmp_path_factory, "faces", lambda folder: _train(folder, values))


def _train(folder: Path, values: dict[str, object]) -> None:
    """Trains small_run.py's config, or the default with these values."""
    import small_run

    from aevb import runs
    from aevb.config import default_config, validate, with_values

    config = with_values(default_config(), values) if values else small_run.get_config()
    runs.run(validate(config), folder)


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """Allows promotion in tests that run other libraries' code, which needs it; each names it."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def optimized() -> Iterator[None]:
    """Compiles as for users, in tests of claims about the exact bits of results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(xla.CPU_OPTIONS, "xla_cpu_use_fusion_emitters", True)
        xla.training_options.cache_clear()
        jax.config.update("jax_disable_most_optimizations", False)
        yield
    jax.config.update("jax_disable_most_optimizations", True)
    xla.training_options.cache_clear()
