"""docs/variational_bayes.md runs, its claims hold, and its pictures are those that it makes."""

import re
from pathlib import Path

import pytest
from programs import ROOT, python

PAGE = ROOT / "docs" / "variational_bayes.md"
PICTURE = re.compile(r"!\[[^\]]+\]\(variational_bayes/(\w+)\.png\)")


@pytest.mark.slow
def test_the_page_on_variational_bayes_runs_and_makes_the_pictures_that_it_shows(tmp_path: Path):
    """It runs in a separate process, because the page sets float64 globally."""
    python("-m", "docs.tools.variational_bayes", f"--output={tmp_path}")
    made = {picture.stem for picture in tmp_path.glob("*.png")}
    shown = PICTURE.findall(PAGE.read_text())
    assert len(shown) == len(set(shown))
    assert made == set(shown)
    committed = {picture.stem for picture in (ROOT / "docs" / "variational_bayes").glob("*.png")}
    assert committed == made
