"""Makes each slip of slips.py in a copy of the package, and checks that a test fails.

    python tests/support/mutations.py            all of them
    python tests/support/mutations.py KL key     those with one of these words in their names

It prints a table, and exits with 1 if a slip was not noticed. A test that fails with a slip must
pass in a copy without it: in a copy that is broken anyway, a failure proves nothing.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from slips import SLIPS, Slip

ROOT = Path(__file__).parent.parent.parent
COPIED = ("aevb", "tests", "pyproject.toml")
SOME_TEST_IS_RED = 1  # pytest's exit status; 2 to 5 are errors of another kind


class Outcome(NamedTuple):
    """The result of a slip."""

    slip: Slip
    red: str  # the first test that failed, or ""
    trouble: str  # why the slip could not be judged, or ""
    seconds: float


def slipped(slip: Slip) -> str:
    """Returns the file's text with the slip in it.

    Raises:
        ValueError: the text to be replaced does not occur exactly once.
    """
    text = (ROOT / "aevb" / slip.file).read_text()
    if (count := text.count(slip.old)) != 1:
        raise ValueError(f"{slip.name!r}: aevb/{slip.file} holds its text {count} times, not once")
    return text.replace(slip.old, slip.new)


@contextmanager
def copy_of_the_package() -> Iterator[Path]:
    """Yields a folder that holds the package and its tests.

    Raises:
        RuntimeError: `import aevb` in that folder would import another copy.
    """
    with tempfile.TemporaryDirectory(prefix="aevb_slip_") as name:
        folder = Path(name).resolve()
        for item in COPIED:
            if (ROOT / item).is_dir():
                shutil.copytree(
                    ROOT / item, folder / item, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                shutil.copy(ROOT / item, folder / item)
        imported = _python(folder, "-c", "import aevb; print(aevb.__file__)").stdout.strip()
        if imported != str(folder / "aevb" / "__init__.py"):
            raise RuntimeError(f"{imported} would be tested, and not the copy in {folder}")
        yield folder


def _python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def _pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return _python(
        folder, "-m", "pytest", "-q", "-m", "", "--tb=no", "-p", "no:cacheprovider", *arguments
    )


def judge(slip: Slip) -> Outcome:
    """Makes the slip and runs the tests that should notice it, up to the first failure."""
    began = time.monotonic()
    red = trouble = ""
    with copy_of_the_package() as folder:
        (folder / "aevb" / slip.file).write_text(slipped(slip))
        files = [f"tests/{file}" for file in slip.tests.split()]
        done = _pytest(folder, "-x", *files, *(["-k", slip.only] if slip.only else []))
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    if done.returncode == SOME_TEST_IS_RED and failed:
        red = failed[0].removeprefix("FAILED ").partition(" - ")[0]
    elif done.returncode:
        trouble = " ".join((done.stdout + done.stderr).split())[-300:]
    return Outcome(slip, red, trouble, time.monotonic() - began)


def check_without_slips(reds: Iterable[str]) -> str:
    """Runs these tests in an unchanged copy of the package and returns their errors, or ""."""
    with copy_of_the_package() as folder:
        done = _pytest(folder, *sorted(set(reds)))
    return done.stdout[-2000:] + done.stderr[-2000:] if done.returncode else ""


def run(slips: Iterable[Slip]) -> tuple[list[Outcome], str]:
    """Judges slips, one on each core, and returns their outcomes and the errors without slips."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = []
        for outcome in pool.map(judge, slips):
            outcomes.append(outcome)
            print(_row(outcome), flush=True)
    return outcomes, check_without_slips(outcome.red for outcome in outcomes if outcome.red)


def _row(outcome: Outcome) -> str:
    slip, red, trouble, seconds = outcome
    verdict = red.removeprefix("tests/") or f"NOT NOTICED {trouble}".strip()
    return f"{slip.name:<48} {slip.file:<20} {seconds:5.0f} s  {verdict}"


def main(words: list[str]) -> int:
    chosen = [slip for slip in SLIPS if not words or any(word in slip.name for word in words)]
    began = time.monotonic()
    outcomes, broken = run(chosen)
    noticed = sum(bool(outcome.red) for outcome in outcomes)
    print(f"{noticed} of {len(outcomes)} slips noticed, in {time.monotonic() - began:.0f} s")
    if broken:
        print(f"without a slip these tests are not green either:\n{broken}")
    return int(bool(broken) or noticed < len(outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
