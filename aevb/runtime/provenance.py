"""Provenance of results: the software versions and the machine, for every results file."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("aevb", "jax", "flax", "optax", "orbax-checkpoint", "blackjax")


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that can change a result."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def machine() -> dict[str, Any]:
    """Returns the processor, number of cores and operating system, without identifying data."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [
            line
            for line in cpuinfo.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        processor = lines[0].partition(":")[2].strip() if lines else processor
    return {"processor": processor, "cores": os.cpu_count(), "system": platform.system()}
