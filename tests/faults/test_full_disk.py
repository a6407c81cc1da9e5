"""A disk that fills up at any moment: no checkpoint is lost, and with room the run continues."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_damage import small, what_came_of_it

from aevb import runs
from aevb.errors import UserError

KIB = 1024
SIZE = 4096 * KIB
NUM_POINTS = 10


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mounts a small separate disk, which only root can do."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no disk of a chosen size can be had: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def size_of(folder: Path) -> int:
    """Returns the bytes of all files.

    A disk needs more, in whole pages for each file. How many files hold a checkpoint varies.
    """
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(n, marks=pytest.mark.slow if n == 4 else pytest.mark.faults)
        for n in range(NUM_POINTS)
    ],
)
def test_a_full_disk_stops_the_run_and_loses_no_checkpoint(
    number: int, disk: Path, undisturbed: Path, record_property: Callable[[str, object], None]
):
    """The disk is full from the config on, near the last file only, or at eight times between."""
    record_property("fault", "a full disk")
    free = 8 * KIB + number * (size_of(undisturbed) - 8 * KIB) // NUM_POINTS
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(SIZE - free))
    with pytest.raises(UserError, match=r"No space left on device") as caught:
        runs.run(small(), disk / "run")
    assert len(str(caught.value).splitlines()) == 1
    ballast.unlink()
    runs.run(small(), disk / "run")
    assert what_came_of_it(disk / "run") == what_came_of_it(undisturbed)
    record_property("outcome", "one line, and the same end once there is room")
