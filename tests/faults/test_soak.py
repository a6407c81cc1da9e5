"""A run of many hours: memory, files and disk stay as they are after its first minutes."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from programs import ROOT, ended, start_python, wait_for

MIB = 2**20
HOURS = 10.0
PAUSES, CHECKPOINTS = HOURS * 3600 / 0.5, HOURS * 3600 / 60  # of a run of this length


class Seen(NamedTuple):
    """The resources of a process at one moment."""

    memory: int  # bytes, resident
    files: int  # open
    disk: int  # bytes in the run's folder, without the log, which has one line per evaluation
    entries: int  # files and folders there


def look(process: subprocess.Popen[str], folder: Path) -> Seen:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (resident,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    # Checkpoints are written and deleted meanwhile, which os.walk tolerates.
    inside = [(Path(at), folders + files) for at, folders, files in os.walk(folder)]
    paths = [at / name for at, names in inside for name in names if name != "metrics.jsonl"]
    sizes = []
    for path in paths:
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # it was deleted meanwhile
            continue
    return Seen(
        1024 * int(resident), len(os.listdir(f"/proc/{process.pid}/fd")), sum(sizes), len(sizes)
    )


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="memory is read from /proc")
@pytest.mark.parametrize("minutes", [pytest.param(m, marks=pytest.mark.faults) for m in (1, 20)])
def test_memory_open_files_and_disk_do_not_grow_during_a_long_run(
    minutes: int, tmp_path: Path, record_property: Callable[[str, object], None]
):
    folder = tmp_path / "run"
    seconds = 60.0 * minutes
    process = start_python(
        "tests/faults/soak.py", folder, PAUSES / 1200, 1200 / CHECKPOINTS,
        env={"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"},
    )  # fmt: skip
    wait_for((folder / "metrics.jsonl").exists, process)
    seen: list[Seen] = []
    while len(seen) < 100 and process.poll() is None:
        seen.append(look(process, folder))
        time.sleep(seconds / 100)
    process.send_signal(signal.SIGTERM)
    stopped = ended(process)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    early, late = seen[20:40], seen[80:]

    def most(of: list[Seen], name: str) -> float:
        return float(np.max([getattr(each, name) for each in of]))

    def least(of: list[Seen], name: str) -> int:
        """Returns the least number of a kind of files.

        A leaked file is there in every observation; one of a checkpoint being written, in some.
        """
        return min(getattr(each, name) for each in of)

    record_property("fault", f"a soak of {minutes} minutes")
    record_property(
        "outcome",
        f"{last['examples']:,} steps and more; "
        f"{most(early, 'memory') / MIB:.0f} MiB early and {most(late, 'memory') / MIB:.0f} late, "
        f"{least(early, 'files')} and {least(late, 'files')} open files, "
        f"{most(early, 'disk') / MIB:.2f} and {most(late, 'disk') / MIB:.2f} MiB on disk",
    )
    # tensorstore never frees the JSON that it gives orbax at each checkpoint, some 25 kB.
    assert most(late, "memory") < 1.03 * most(early, "memory") + 4 * MIB
    assert least(late, "files") <= least(early, "files")
    assert least(late, "entries") <= most(early, "entries") + 10  # the best may come to be a third
    # Every checkpoint contains the log, with some 200 bytes per line.
    lines = len((folder / "metrics.jsonl").read_text().splitlines())
    assert most(late, "disk") < 1.2 * most(early, "disk") + 4 * 300 * lines
