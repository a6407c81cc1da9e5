"""The slips of slips.py can be made; `make test-mutations` checks that each makes a test fail."""

import ast
import functools
from pathlib import Path

import mutations
import pytest
from slips import SLIPS, Slip

TESTS = Path(__file__).parent
every_slip = pytest.mark.parametrize("slip", SLIPS, ids=[slip.name for slip in SLIPS])


@functools.cache
def dump_of(file: str) -> str:
    return ast.dump(ast.parse((mutations.ROOT / "aevb" / file).read_text()))


@every_slip
def test_a_slip_can_still_be_made(slip: Slip):
    """When code moves, the slips in it must be updated."""
    assert ast.dump(ast.parse(mutations.slipped(slip))) != dump_of(slip.file)
    for file in slip.tests.split():
        assert (TESTS / file).exists()


def test_slips_have_names_of_their_own():
    assert len({slip.name for slip in SLIPS}) == len(SLIPS)


@pytest.mark.parametrize("old", ["no such text", "jnp."])
def test_a_slip_whose_text_is_not_there_once_is_refused(old: str):
    slip = SLIPS[0]._replace(old=old)
    count = (mutations.ROOT / "aevb" / slip.file).read_text().count(old)
    assert count != 1
    with pytest.raises(ValueError, match=f"holds its text {count} times"):
        mutations.slipped(slip)


@pytest.mark.slow
def test_what_is_no_slip_is_not_noticed():
    """An edit that changes nothing makes no test fail, so a failure means that a slip was seen."""
    harmless = SLIPS[0]._replace(new=f"({SLIPS[0].old})")
    outcome = mutations.judge(harmless)
    assert not outcome.red
    assert not outcome.trouble
