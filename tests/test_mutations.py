"""The tests are tested: every slip of slips.py turns one of them red."""

import ast
from pathlib import Path

import mutations
import pytest
from slips import SLIPS, Slip

TESTS = Path(__file__).parent
every_slip = pytest.mark.parametrize("slip", SLIPS, ids=[slip.name for slip in SLIPS])


@every_slip
def test_a_slip_can_still_be_made(slip: Slip):
    """When code moves, the slips in it have to follow."""
    original = ast.dump(ast.parse((mutations.ROOT / "aevb" / slip.file).read_text()))
    assert ast.dump(ast.parse(mutations.slipped(slip))) != original
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
    """An edit that changes nothing leaves all green, so that red means something."""
    harmless = SLIPS[0]._replace(new=f"({SLIPS[0].old})")
    outcome = mutations.judge(harmless)
    assert not outcome.red
    assert not outcome.trouble


@pytest.mark.slow
def test_every_slip_turns_a_test_red():
    outcomes, broken = mutations.run(SLIPS)
    missed = {outcome.slip.name: outcome.trouble for outcome in outcomes if not outcome.red}
    assert not missed
    assert not broken, broken
