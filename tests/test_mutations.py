"""The mutations of mutations.txt can be made; `make test-mutations` runs the tests with each."""

import ast
from pathlib import Path

import mutations
import pytest
import run_mutations
from mutations import MUTATIONS, Mutation

SUM = """self.mean  # of the latents
            + jnp.exp(self.log_std) * x"""
PACKAGE = f"""
RATE = 0.1

class Normal:
    def sample(self, x):
        return (
            {SUM}
        )

def sample(x):
    return x + 1, x + 1
"""


@pytest.fixture
def small_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Writes a package of one module, to be mutated instead, and returns the module."""
    module = tmp_path / "aevb" / "folder" / "densities.py"
    module.parent.mkdir(parents=True)
    module.write_text(PACKAGE)
    monkeypatch.setattr(mutations, "ROOT", tmp_path)
    return module


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_every_mutation_changes_the_code_and_has_a_test_to_run_first(mutation: Mutation):
    """When code is renamed or rewritten, its mutations must be rewritten too."""
    module, text = mutations.mutated(mutation)
    assert text != mutations.unparsed(module)
    tests = [file.read_text() for file in run_mutations.tests_of(module)]
    assert any(mutation.only in file for file in tests)


def test_mutations_have_distinct_names():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize("stem", run_mutations.MORE_TESTS)
def test_the_modules_and_tests_of_more_tests_exist(stem: str):
    assert list((mutations.ROOT / "aevb").rglob(f"{stem}.py"))
    for name in run_mutations.MORE_TESTS[stem].split():
        assert list((mutations.ROOT / "tests").rglob(f"test_{name}.py"))


@pytest.mark.parametrize(
    ("where", "old", "new", "lines", "edited"),
    [
        ("RATE", "0.1", "0.2", "0.1", "0.2"),
        ("Normal", "self.mean + _", "_ - self.mean", SUM, "jnp.exp(self.log_std) * x - self.mean"),
        ("Normal.sample", "jnp.exp(_) * _a", "_ * _a", "jnp.exp(self.log_std)", "self.log_std"),
        ("densities.sample", "return _, _", "return _", "return x + 1, x + 1", "return x + 1"),
    ],
)
def test_code_is_found_in_any_formatting(
    small_package: Path, where: str, old: str, new: str, lines: str, edited: str
):
    assert lines in PACKAGE
    expected = ast.unparse(ast.parse(PACKAGE.replace(lines, edited)))
    assert mutations.mutated(Mutation("", where, old, new)) == (small_package, expected)


@pytest.mark.parametrize(
    ("where", "old", "count"),
    [("sample", "x + 1", 2), ("sample", "x + 1.0", 0), ("Normal", "_ + _", 0), ("absent", "x", 0)],
)
def test_a_mutation_whose_code_is_not_there_once_is_refused(
    small_package: Path, where: str, old: str, count: int
):
    with pytest.raises(ValueError, match=f"holds its code {count} times"):
        mutations.mutated(Mutation("", where, old, "0"))


@pytest.mark.slow
def test_an_edit_that_changes_nothing_makes_no_test_fail():
    """Otherwise a failure would not mean that a mutation was detected."""
    outcome = run_mutations.judge(MUTATIONS[0]._replace(new=MUTATIONS[0].old))
    assert not outcome.red
    assert not outcome.trouble
