"""The slips of slips.txt can be made; `make test-mutations` checks that each makes a test fail."""

import ast
from pathlib import Path

import mutations
import pytest
import slips
from slips import SLIPS, Slip

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
    """Writes a package of one module, in which slips are made instead, and returns the module."""
    module = tmp_path / "aevb" / "folder" / "densities.py"
    module.parent.mkdir(parents=True)
    module.write_text(PACKAGE)
    monkeypatch.setattr(slips, "ROOT", tmp_path)
    return module


@pytest.mark.parametrize("slip", SLIPS, ids=[slip.name for slip in SLIPS])
def test_every_slip_changes_the_code_and_has_a_test_to_run_first(slip: Slip):
    """When code is renamed or rewritten, its slips must be rewritten too."""
    module, text = slips.slipped(slip)
    assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(module.read_text()))
    tests = [file.read_text() for file in mutations.tests_of(module)]
    assert any(slip.only in file for file in tests)


def test_slips_have_distinct_names():
    assert len({slip.name for slip in SLIPS}) == len(SLIPS)


@pytest.mark.parametrize("stem", mutations.MORE_TESTS)
def test_the_modules_and_tests_of_more_tests_exist(stem: str):
    assert list((slips.ROOT / "aevb").rglob(f"{stem}.py"))
    for name in mutations.MORE_TESTS[stem].split():
        assert list((slips.ROOT / "tests").rglob(f"test_{name}.py"))


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
    assert slips.slipped(Slip("", where, old, new)) == (small_package, expected)


@pytest.mark.parametrize(
    ("where", "old", "count"),
    [("sample", "x + 1", 2), ("sample", "x + 1.0", 0), ("Normal", "_ + _", 0), ("absent", "x", 0)],
)
def test_a_slip_whose_code_is_not_there_once_is_refused(
    small_package: Path, where: str, old: str, count: int
):
    with pytest.raises(ValueError, match=f"holds its code {count} times"):
        slips.slipped(Slip("", where, old, "0"))


@pytest.mark.slow
def test_an_edit_that_changes_nothing_makes_no_test_fail():
    """An edit that changes nothing makes no test fail, so a failure means that a slip was seen."""
    outcome = mutations.judge(SLIPS[0]._replace(new=SLIPS[0].old))
    assert not outcome.red
    assert not outcome.trouble
