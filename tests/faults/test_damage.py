"""Random damage to a run's folder: the run recovers to the same end, or reports the damage."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from marks import slow_but
from small_run import get_config

from aevb import experiment, runs
from aevb.config import Values, validate
from aevb.errors import UserError
from aevb.runtime.run_lock import LOCK
from aevb.storage import checkpoint
from aevb.storage.metrics_log import UNFINISHED, read_records

NUM_DAMAGES = 200
NUM_QUICK = 6  # number in `make test-all`; `make test` has two


def small() -> Values:
    return validate(get_config())


def what_came_of_it(folder: Path, config: Values | None = None) -> dict[str, Any]:
    """Returns everything that must not depend on the interruptions."""
    config = config or small()
    algorithm = experiment.build(config).algorithm
    manager = checkpoint.open_reader(folder / "checkpoints")
    like = jax.eval_shape(algorithm.init, jax.random.key(0))
    restored = checkpoint.restore(manager, like, only_read=True)
    manager.close()
    assert restored is not None
    summary = runs.inspect(folder, config)
    assert summary is not None
    return {
        "state": checkpoint.digest(restored.state),
        "summary": {name: value for name, value in summary.items() if "second" not in name},
        "log": [
            {k: v for k, v in record.items() if k != "seconds" and "recent" not in k}
            for record in read_records(folder / "metrics.jsonl")
        ],
    }


# Damages: functions of (random numbers, folder) that return a description


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def flip_a_bit(rng: random.Random, folder: Path) -> str:
    file = rng.choice([file for file in files_of(folder) if file.stat().st_size])
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    return f"flipped a bit of {file.relative_to(folder)}"


def truncate(rng: random.Random, folder: Path) -> str:
    file = rng.choice(files_of(folder))
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size + 1)])
    return f"truncated {file.relative_to(folder)}"


def delete_a_file(rng: random.Random, folder: Path) -> str:
    file = rng.choice(files_of(folder))
    file.unlink()
    return f"deleted {file.relative_to(folder)}"


def delete_a_folder(rng: random.Random, folder: Path) -> str:
    chosen = rng.choice(sorted(path for path in folder.rglob("*") if path.is_dir()))
    shutil.rmtree(chosen)
    return f"deleted {chosen.relative_to(folder)}/"


def write_garbage(rng: random.Random, folder: Path) -> str:
    file = rng.choice(files_of(folder))
    file.write_bytes(rng.randbytes(rng.randrange(200)))
    return f"garbage for {file.relative_to(folder)}"


def add_garbage(rng: random.Random, folder: Path) -> str:
    inside = rng.choice([folder, *sorted(path for path in folder.rglob("*") if path.is_dir())])
    name = rng.choice(["7", "0201", "tmp", "step_3", "201.orbax-checkpoint-tmp-1", "x.json"])
    if rng.random() < 0.5:
        (inside / name).mkdir(exist_ok=True)
    elif not (inside / name).exists():
        (inside / name).write_bytes(rng.randbytes(30))
    return f"{name} added to {inside.relative_to(folder)}/"


def steps_of(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("[0-9]*"))


def swap_steps(rng: random.Random, folder: Path) -> str:
    first, second = rng.sample(steps_of(folder), 2)
    aside = folder / "checkpoints" / "aside"
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    return f"swapped {first.name} and {second.name}"


def mix_steps(rng: random.Random, folder: Path) -> str:
    """Replaces a part of one step by that of another."""
    first, second = rng.sample(steps_of(folder), 2)
    part = rng.choice(["state", "notes"])
    shutil.rmtree(first / part)
    shutil.copytree(second / part, first / part)
    return f"{part} of {second.name} in {first.name}"


def leave_a_lock(rng: random.Random, folder: Path) -> str:
    (folder / LOCK).write_bytes(rng.choice([b"process 1 on here\n", rng.randbytes(40), b""]))
    return "a stale lock"


DAMAGES: tuple[Callable[[random.Random, Path], str], ...] = (
    flip_a_bit,
    flip_a_bit,
    truncate,
    delete_a_file,
    delete_a_folder,
    write_garbage,
    add_garbage,
    swap_steps,
    mix_steps,
    leave_a_lock,
)


@pytest.mark.parametrize(
    "number",
    [
        *slow_but(range(0, NUM_QUICK, 3), range(NUM_QUICK)),
        *(pytest.param(n, marks=pytest.mark.faults) for n in range(NUM_QUICK, NUM_DAMAGES)),
    ],
)
def test_a_damaged_run_recovers_or_is_refused_in_one_line(
    number: int,
    undisturbed: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    capfd: pytest.CaptureFixture[str],
):
    rng = random.Random(number)
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    if rng.random() >= 0.2:
        (folder / "summary.json").unlink()
    damage = DAMAGES[number % len(DAMAGES)]
    record_property("fault", damage.__name__.replace("_", " "))
    print(damage(rng, folder))
    is_finished = (folder / "summary.json").exists()
    refusal = ""
    try:
        runs.run(small(), folder)
    except UserError as error:
        refusal = str(error)
    if refusal:
        assert len(refusal.splitlines()) == 1
        record_property("outcome", "one line")
        return
    if is_finished:  # nothing is restored, and damage elsewhere is not examined
        assert runs.inspect(folder, small()) == runs.inspect(undisturbed, small())
    else:
        assert what_came_of_it(folder) == what_came_of_it(undisturbed)
    aside = "damaged (" in capfd.readouterr().err
    record_property("outcome", "the step before, and the same end" if aside else "the same end")


WRITTEN_ALSO = ("data.json", "metrics.jsonl", "explorer.html", "summary.json")


class Died(BaseException):
    """An exception that no code catches, like a kill."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("config.json", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.faults) for name in WRITTEN_ALSO),
    ],
)
def test_a_run_interrupted_before_a_file_is_complete_resumes_with_the_same_result(
    name: str,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
):
    record_property("fault", f"death before {name} is whole")
    folder, replace = tmp_path / "run", Path.replace

    def dies(self: Path, target: Path) -> Path:
        if Path(target).name == name:
            raise Died
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies)
        with pytest.raises(Died):
            runs.run(small(), folder)
    assert (folder / f"{name}{UNFINISHED}").exists()
    assert not (folder / name).exists()
    runs.run(small(), folder)
    assert what_came_of_it(folder) == what_came_of_it(undisturbed)
    record_property("outcome", "the same end")
