"""What XLA is asked for: a cache of programs between runs, and options that speed up training."""

import functools
import hashlib
import os
import platform
import warnings
from pathlib import Path
from typing import Any

import jax

from aevb.errors import UserError

# Measured in docs/speed.md. An optimizer's weights are not copied for fear that something may still
# read the old ones, and loops use the widest vectors of the processor.
CPU_OPTIONS = {
    "xla_cpu_copy_insertion_use_region_analysis": True,
    "xla_cpu_prefer_vector_width": 512,
}

# jax 0.10.2 and 0.11.0 hand sums to a library that silently loses terms of some of them
# (jax-ml/jax#39103) and crashes on others (#39257). XLA reads the flag when the first program is
# compiled, and one that it does not know ends the process.
WITHOUT_WRONG_SUMS = "--xla_cpu_experimental_ynn_fusion_type=-reduce"
if (0, 10, 2) <= jax.__version_info__ < (0, 12):
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_experimental_ynn_fusion_type" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {WITHOUT_WRONG_SUMS}".strip()


@functools.cache
def training_options() -> dict[str, Any]:
    """Those of `CPU_OPTIONS` that this XLA knows; they change nothing on other devices."""
    return {name: value for name, value in CPU_OPTIONS.items() if _is_known({name: value})}


def _is_known(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def use_cache() -> None:
    """Turns on JAX's cache in the user's cache folder; $JAX_COMPILATION_CACHE_DIR goes before it.

    A run that cannot read or write it compiles as if there were none.
    """
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    folder = _default_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # a program read here is executed
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _default_folder() -> Path:
    """One folder for each kind of processor: JAX's own key ignores what instructions a CPU has."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "aevb" / "compiled" / _processor()


def _processor() -> str:
    described = f"{platform.machine()} {platform.processor()}"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        described += " ".join(
            next((line for line in lines if line.startswith(kind)), "")
            for kind in ("model name", "flags", "Features")
        )
    return hashlib.sha256(described.encode()).hexdigest()[:12]


def num_cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Bytes of the device, or else of the machine."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require_memory(needed: int, what: str, fields: str) -> None:
    """Refuses what cannot fit into the memory of the device, or else of the machine.

    Args:
        needed: bytes, of which there may turn out to be more.
        what: is to have them.
        fields: of the config, that could be smaller.

    Raises:
        UserError: there are fewer.
    """
    there = memory()
    if needed > there:
        raise UserError(
            f"{what} needs at least {needed / 2**30:,.0f} GiB of memory, and this machine has "
            f"{there / 2**30:,.0f}; choose a smaller {fields}"
        )
