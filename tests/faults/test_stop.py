"""A run or a sweep that is killed or stopped at any moment ends as if undisturbed."""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from programs import ended, start_python, wait_for
from small_run import get_config, get_sweep
from test_damage import what_came_of_it

from aevb.sweeps.grid import make_plan

COMMAND = ("experiments/run.py", "--config=tests/support/small_run.py")
NUM_KILLS, NUM_SIGNALS, NUM_PAIRS = 100, 40, 20
SWEEPS = 4  # one in this many is a sweep
PHASES = ("metrics.jsonl", "figures")  # the first outputs of training and of the time after it


class Undisturbed(NamedTuple):
    """The results of a command that is not stopped."""

    seconds: float
    training: float  # seconds of them
    found: list[dict[str, Any]]  # the results of each of its runs


def start(folder: Path, sweep: bool) -> subprocess.Popen[str]:
    return start_python(*COMMAND, f"--workdir={folder}", *(["--sweep"] if sweep else []))


def finish(folder: Path, sweep: bool) -> list[dict[str, Any]]:
    done = ended(start(folder, sweep))
    assert done.returncode == 0, done.stderr
    if not sweep:
        return [what_came_of_it(folder)]
    members = make_plan(get_config(), get_sweep()).members()
    return [what_came_of_it(folder / member.name, member.values) for member in members]


def wait_for_file(process: subprocess.Popen[str], folder: Path, sweep: bool, name: str) -> float:
    """Waits until a run has such a file, and returns the time."""
    wait_for(lambda: any(folder.glob(f"*/{name}" if sweep else name)), process)
    return time.monotonic()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Undisturbed]:
    known: dict[bool, Undisturbed] = {}

    def of(sweep: bool) -> Undisturbed:
        if sweep not in known:
            folder = tmp_path_factory.mktemp("undisturbed")
            finish(folder / "first", sweep)  # fills the compilation cache
            began = time.monotonic()
            process = start(folder / "second", sweep)
            first, last = (
                wait_for_file(process, folder / "second", sweep, name) for name in PHASES
            )
            assert ended(process).returncode == 0
            seconds = time.monotonic() - began
            found = finish(folder / "second", sweep)  # it has nothing left to do
            known[sweep] = Undisturbed(seconds, last - first, found)
        return known[sweep]

    return of


@pytest.mark.faults
@pytest.mark.parametrize("number", range(NUM_KILLS))
def test_a_run_killed_at_any_moment_resumes_with_the_same_result(
    number: int,
    undisturbed: Callable[[bool], Undisturbed],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
):
    """Each hundredth of the time has one moment, so start, training, saving and figures are hit."""
    sweep = number % SWEEPS == 0
    record_property("fault", f"kill -9, {'sweep' if sweep else 'run'}")
    reference = undisturbed(sweep)
    folder = tmp_path / "run"
    process = start(folder, sweep)
    time.sleep(reference.seconds * (number + random.Random(number).random()) / NUM_KILLS)
    process.kill()
    ended(process)
    assert finish(folder, sweep) == reference.found
    record_property("outcome", "the same end")


@pytest.mark.faults
@pytest.mark.parametrize("number", range(NUM_SIGNALS))
def test_a_run_stopped_by_a_signal_at_any_moment_reports_it_and_resumes_with_the_same_result(
    number: int,
    undisturbed: Callable[[bool], Undisturbed],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
):
    sweep = number % SWEEPS == 0
    wish = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)[number % 3]
    record_property("fault", f"{wish.name}, {'sweep' if sweep else 'run'}")
    reference = undisturbed(sweep)
    folder = tmp_path / "run"
    process = start(folder, sweep)
    part = (number + random.Random(number).random()) / NUM_SIGNALS
    if number % 5 < 3:  # during training, which is a small part of its time
        wait_for_file(process, folder, sweep, PHASES[0])
        time.sleep(part * reference.training)
    else:  # at any moment
        time.sleep(0.2 + part * (reference.seconds - 0.2))
    process.send_signal(wish)
    err = ended(process).stderr
    assert process.returncode in (0, 128 + wish), err
    if process.returncode:
        assert err.splitlines()[-1].startswith(f"stopped by {wish.name}")
        assert "Traceback" not in err
    assert finish(folder, sweep) == reference.found
    said = "saved, and the same end" if "and saved at" in err else "left at once, and the same end"
    record_property("outcome", said if process.returncode else "it was done already")


@pytest.mark.faults
@pytest.mark.parametrize("number", range(NUM_PAIRS))
def test_of_two_processes_on_one_folder_exactly_one_trains(
    number: int,
    undisturbed: Callable[[bool], Undisturbed],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
):
    sweep = number % SWEEPS == 0
    record_property("fault", f"two processes, {'sweep' if sweep else 'run'}")
    reference = undisturbed(sweep)
    folder = tmp_path / "run"
    both = [start(folder, sweep)]
    time.sleep(random.Random(number).random() * 0.3 * reference.seconds)
    both.append(start(folder, sweep))
    statuses, _, errors = zip(*map(ended, both), strict=True)
    assert finish(folder, sweep) == reference.found
    if statuses == (0, 0) and not sweep:  # on a busy machine the second may begin too late
        assert sorted("examples" in error for error in errors) == [False, True], errors
        record_property("outcome", "one ran, the other found it finished")
        return
    assert sorted(statuses) == [0, 2], errors
    refused = errors[statuses.index(2)].splitlines()[-1]
    winner = both[statuses.index(0)].pid
    assert refused.startswith("error: --workdir=")
    assert f"is in use by process {winner} on" in refused
    record_property("outcome", "one ran, the other was told whose it is")
