"""Makes each mutation of mutations.txt in a copy of the package, and checks that a test fails.

It prints a table, and exits with 1 if a mutation was not detected. A test that fails with a
mutation must pass in a copy without it: in a copy that is broken anyway, a failure proves nothing.
"""

import argparse
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

from mutations import MUTATIONS, ROOT, Mutation, mutated

COPIED = ("aevb", "experiments", "tests", "CHANGELOG.md", "pyproject.toml")
SOME_TEST_IS_RED, NO_TEST_RAN = 1, 5  # pytest's exit statuses; 2 to 4 are errors of another kind
# The test files that detect mutations in a module, in addition to test_MODULE.py if there is one.
MORE_TESTS = {
    "bits": "elbo experiment",
    "classification": "label_models",
    "convolutional": "convolutional_networks convolutions",
    "devices": "sweep",
    "diagnostics": "measures",
    "experiment": "discrete_runs",
    "models": "experiment count_data discrete_runs",
    "frey_faces": "data",
    "fully_connected": "vae",
    "gated_convolutional": "convolutional",
    "gradient_ascent": "aevb convolutional_networks convolutions norms",
    "hints": "of_log",
    "hmc": "against_arviz",
    "image_folders": "user_files",
    "inputs": "count_data missing",
    "kinds": "user_files",
    "labels": "label_models",
    "linear_gaussian_em": "linear_gaussian",
    "loop": "skip_nonfinite",
    "importance_weights": "precision",
    "latents": "discrete_runs",
    "learned_baseline": "discrete_runs",
    "losses": "gradients factors measures score_functions",
    "measures": "hierarchies",
    "matrix_normal": "linear_gaussian",
    "mixture_runs": "mixture_model",
    "mixture_search": "gaussian_mixture",
    "optimizers": "schedules",
    "preprocessing": "data",
    "priors": "discrete_runs",
    "run": "main",
    "settings": "early_stopping",
    "run_figures": "trackers",
    "sources": "data identity",
    "splits": "user_files image_folders label_models",
    "synthetic": "data",
    "tables": "user_files",
    "trained": "export load",
    "user_files": "image_folders standardization",
}


class Outcome(NamedTuple):
    """The result of a mutation."""

    mutation: Mutation
    module: Path
    red: str  # the first test that failed, or ""
    trouble: str  # why the mutation could not be judged, or ""
    seconds: float


def tests_of(module: Path) -> list[Path]:
    """Returns the test files of a module, wherever they are."""
    names = (module.stem, *MORE_TESTS.get(module.stem, "").split())
    return [file for name in names for file in (ROOT / "tests").rglob(f"test_{name}.py")]


@contextmanager
def copy_of_the_package() -> Iterator[Path]:
    """Yields a folder that holds the package and its tests.

    Raises:
        RuntimeError: `import aevb` in that folder would import another copy.
    """
    with tempfile.TemporaryDirectory(prefix="aevb_mutation_") as name:
        folder = Path(name).resolve()
        for item in COPIED:
            if (ROOT / item).is_dir():
                no_caches = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / item, folder / item, symlinks=True, ignore=no_caches)
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
    return _python(folder, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", *arguments)


def judge(mutation: Mutation) -> Outcome:
    """Makes the mutation and runs the tests that should detect it, up to the first failure.

    The tests that the mutation names run first, then the quick ones of the module, then the slow.
    """
    began = time.monotonic()
    red = trouble = ""
    module, text = mutated(mutation)
    files = [str(file.relative_to(ROOT)) for file in tests_of(module)]
    named = [["-m", "", "-k", mutation.only]] if mutation.only else []
    with copy_of_the_package() as folder:
        (folder / module.relative_to(ROOT)).write_text(text)
        for selection in (*named, [], ["-m", "slow"]):
            done = _pytest(folder, "-x", *files, *selection)
            failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
            if done.returncode == SOME_TEST_IS_RED and failed:
                red = failed[0].removeprefix("FAILED ").partition(" - ")[0]
            elif done.returncode not in (0, NO_TEST_RAN):
                trouble = " ".join((done.stdout + done.stderr).split())[-300:]
            if red or trouble:
                break
    return Outcome(mutation, module, red, trouble, time.monotonic() - began)


def check_without_mutations(reds: Iterable[str]) -> str:
    """Runs these tests in an unchanged copy of the package and returns their errors, or ""."""
    with copy_of_the_package() as folder:
        done = _pytest(folder, "-m", "", *sorted(set(reds)))
    return done.stdout[-2000:] + done.stderr[-2000:] if done.returncode else ""


def run(mutations: Iterable[Mutation]) -> tuple[list[Outcome], str]:
    """Judges mutations, one on each core; returns their outcomes, and errors without mutations."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = []
        for outcome in pool.map(judge, mutations):
            outcomes.append(outcome)
            print(_row(outcome), flush=True)
    return outcomes, check_without_mutations(outcome.red for outcome in outcomes if outcome.red)


def _row(outcome: Outcome) -> str:
    mutation, module, red, trouble, seconds = outcome
    file = module.relative_to(ROOT / "aevb")
    verdict = red.removeprefix("tests/") or f"NOT NOTICED {trouble}".strip()
    return f"{mutation.name:<48} {file!s:<20} {seconds:5.0f} s  {verdict}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="only mutations with this in their name or function",
    )
    words = parser.parse_args(arguments).words
    texts = {mutation: f"{mutation.name} {mutation.where}" for mutation in MUTATIONS}
    chosen = [
        mutation
        for mutation in MUTATIONS
        if not words or any(word in texts[mutation] for word in words)
    ]
    began = time.monotonic()
    outcomes, broken = run(chosen)
    detected = sum(bool(outcome.red) for outcome in outcomes)
    print(f"{detected} of {len(outcomes)} mutations detected, in {time.monotonic() - began:.0f} s")
    if broken:
        print(f"without a mutation these tests are not green either:\n{broken}")
    return int(bool(broken) or detected < len(outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
