"""The notebook: its code runs, its names exist, and it keeps the outputs of its code."""

import ast
import copy

import numpy as np
import pytest

import aevb
from aevb.runs.trained import TrainedRun
from docs.tools import notebook

LARGEST = 400_000  # bytes
WRITTEN = notebook.read()
CODE = notebook.code_of(WRITTEN)


def test_the_notebook_has_the_format_of_jupyter_and_is_small():
    assert (WRITTEN["nbformat"], WRITTEN["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in WRITTEN["cells"]]
    assert len(set(ids)) == len(ids)
    fields = {"cell_type", "id", "metadata", "source"}
    for cell in WRITTEN["cells"]:
        is_code = cell["cell_type"] == "code"
        assert set(cell) == fields | ({"execution_count", "outputs"} if is_code else set())
    assert notebook.NOTEBOOK.stat().st_size < LARGEST


def test_the_cells_were_run_in_their_order_without_an_error():
    cells = [cell for cell in WRITTEN["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    for cell in cells:
        for output in cell["outputs"]:
            assert output["output_type"] in ("stream", "execute_result"), notebook.source_of(cell)
        shows = isinstance(ast.parse(notebook.source_of(cell)).body[-1], ast.Expr)
        kinds = [output["output_type"] for output in cell["outputs"]]
        assert ("execute_result" in kinds) == shows, "run python -m docs.tools.notebook"
    assert sum("text/html" in str(cell["outputs"]) for cell in cells) == 1


def test_the_names_of_the_package_that_the_notebook_uses_exist():
    runs = {"run", "longer", "loaded"}
    fields = {*TrainedRun.__dataclass_fields__, *dir(TrainedRun)}
    used = [
        (node.value.id, node.attr)
        for node in ast.walk(ast.parse("\n".join(CODE)))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    ]
    assert {name for name, _ in used} > {"aevb", *runs}
    for name, attribute in used:
        if name == "aevb":
            assert attribute in dir(aevb), attribute
        elif name in runs:
            assert attribute in fields, attribute


def test_an_executed_cell_keeps_what_it_prints_and_shows():
    blank = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    html = "class Shown:\n    _repr_html_ = lambda self: '<b>'"
    sources = enumerate(("x = 3\nprint('a')\nx + 1", html, "Shown()"))
    cells = [{**blank, "id": str(number), "source": [source]} for number, source in sources]
    cells.append({"cell_type": "markdown", "id": "last", "metadata": {}, "source": ["# *Text*"]})
    before = copy.deepcopy(cells)
    done, names = notebook.executed({"cells": cells})
    assert names["x"] == 3
    assert cells == before
    printed, value = done["cells"][0]["outputs"]
    assert printed["text"] == ["a\n"]
    assert value["data"] == {"text/plain": ["4"]}
    assert done["cells"][1]["outputs"] == []
    assert done["cells"][2]["outputs"][0]["data"]["text/html"] == ["<b>"]
    page = notebook.markdown_of(done)
    for part in ("```python\nShown()\n```", "<div><b></div>", "```text\n4\n```", "\n# *Text*\n"):
        assert part in page


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_the_notebook_runs():
    short = copy.deepcopy(WRITTEN)
    for cell in short["cells"]:
        changed = notebook.source_of(cell).replace("00_000", "_000").replace("=500)", "=50)")
        cell["source"] = [changed]
    code = "\n".join(notebook.code_of(short))
    assert "2_000" in code
    assert "3_000" in code
    done, names = notebook.executed(short)
    assert names["longer"].summary["num_examples"] == 3000
    assert names["means"].shape == (5, 28, 20)
    assert np.all(np.isfinite(names["log_p"]))
    assert done["cells"][-1]["outputs"][-1]["data"]["text/plain"] == ["True"]
