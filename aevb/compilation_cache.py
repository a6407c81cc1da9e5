"""Compiled programs kept between runs, so that the second run of a kind starts at once."""

import hashlib
import os
import platform
import warnings
from pathlib import Path

import jax


def enable() -> None:
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
