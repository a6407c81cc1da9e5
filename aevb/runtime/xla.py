"""Settings of XLA: a persistent compilation cache, faster training, and memory checks."""

import functools
import hashlib
import os
import platform
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from aevb.errors import UserError

# Measured in docs/speed.md. The first option avoids defensive copies of an optimizer's weights. The
# second makes loops use the widest vectors of the processor.
CPU_OPTIONS = {
    "xla_cpu_copy_insertion_use_region_analysis": True,
    "xla_cpu_prefer_vector_width": 512,
}

# LLVM's level of optimization for programs that run for a moment; its default is 3. On a CPU the
# program that draws the first parameters of a convolutional network compiles in half the time, to
# the same bits.
BRIEF_OPTIONS = {"xla_backend_optimization_level": 1}

# jax 0.10.2 and 0.11.0 compute sums with a library that silently drops terms of some sums
# (jax-ml/jax#39103) and crashes on others (#39257). The flag is added only for these versions,
# because XLA ends the process if a flag is unknown.
WITHOUT_WRONG_SUMS = "--xla_cpu_experimental_ynn_fusion_type=-reduce"


def add_flags(flags: str) -> None:
    """Adds flags to $XLA_FLAGS, which XLA reads when it compiles the first program."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


if (0, 10, 2) <= jax.__version_info__ < (0, 12) and (
    "xla_cpu_experimental_ynn_fusion_type" not in os.environ.get("XLA_FLAGS", "")
):
    add_flags(WITHOUT_WRONG_SUMS)


@functools.cache
def training_options() -> dict[str, Any]:
    """Returns the `CPU_OPTIONS` that this XLA accepts; they have no effect on other devices."""
    return _known(CPU_OPTIONS)


@functools.cache
def brief_options() -> dict[str, Any]:
    """Returns the `BRIEF_OPTIONS` that this XLA accepts."""
    return _known(BRIEF_OPTIONS)


def jit_brief(function: Callable[..., Any]) -> jax.stages.Wrapped:
    """Returns the function as a program that compiles sooner and runs slower than `jax.jit`'s.

    It is for programs that run once or a few times, such as those of figures.
    """
    return jax.jit(function, compiler_options=brief_options())


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """Returns those of the options that this XLA accepts."""
    if _is_known(options):
        return options
    return {name: value for name, value in options.items() if _is_known({name: value})}


def _is_known(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def use_cache() -> None:
    """Turns on JAX's compilation cache, in $JAX_COMPILATION_CACHE_DIR or the user's cache folder.

    A run that cannot read or write the cache compiles without it.
    """
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    folder = _default_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # cached programs are executed
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _default_folder() -> Path:
    """Returns a folder for this type of processor.

    JAX's own cache key ignores the instruction set of the CPU.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "aevb" / "compiled" / _processor()


def _processor() -> str:
    described = f"{platform.machine()} {platform.processor()}"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        described += " ".join(
            next((line for line in lines if line.startswith(kind)), "")
            for kind in ("model name", "flags", "Features")
        )
    return hashlib.sha256(described.encode()).hexdigest()[:12]


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Returns the memory of the device in bytes, or if it is unknown that of the machine."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require_memory(needed: int, what: str, fields: str) -> None:
    """Checks that an object fits into `memory()`.

    Args:
        needed: a lower bound on its size in bytes.
        what: the name of the object, for the error message.
        fields: the config fields that determine its size, for the error message.

    Raises:
        UserError: the memory is smaller than `needed`.
    """
    there = memory()
    if needed > there:
        raise UserError(
            f"{what} needs at least {needed / 2**30:,.0f} GiB of memory, and this machine has "
            f"{there / 2**30:,.0f}; choose a smaller {fields}"
        )
