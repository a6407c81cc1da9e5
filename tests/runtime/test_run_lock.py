"""A run's folder has one owner, until that process ends."""

import os
import subprocess
from pathlib import Path

import pytest
from programs import ended, run_program, start_python

from aevb.errors import UserError
from aevb.runtime.run_lock import LOCK, owned

HOLD = "import sys; from pathlib import Path; from aevb.runtime.run_lock import owned\n"
HOLD += "with owned(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"


def holder(folder: Path) -> subprocess.Popen[str]:
    """Starts a process that owns the folder until its stdin is closed."""
    process = start_python("-c", HOLD, folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def test_a_run_in_a_locked_folder_is_refused_with_the_owner(tmp_path: Path):
    process = holder(tmp_path / "run")
    done = run_program(
        "experiments/run.py", "--config=tests/support/small_run.py", f"--workdir={tmp_path / 'run'}"
    )
    ended(process)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --workdir=")
    assert f"is in use by process {process.pid} on" in line
    assert "; wait until" in line
    with owned(tmp_path / "run"):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / LOCK).read_text()


def test_the_lock_of_a_killed_process_is_released(tmp_path: Path):
    process = holder(tmp_path)
    process.kill()
    process.wait()
    assert (tmp_path / LOCK).exists()
    with owned(tmp_path):
        pass


def test_a_lock_file_with_any_content_can_be_acquired(tmp_path: Path):
    (tmp_path / LOCK).write_bytes(b"\xff\x00 process 1 on elsewhere")
    with owned(tmp_path):
        pass


def test_a_folder_that_cannot_be_created_is_refused_in_one_line(tmp_path: Path):
    (tmp_path / "file").touch()
    told = r"cannot be used \(.*\); name a folder that can be written"
    with pytest.raises(UserError, match=told), owned(tmp_path / "file" / "run"):
        pass
