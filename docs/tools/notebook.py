"""Runs the code of docs/first_steps.ipynb from top to bottom, and keeps its outputs in it.

    python -m docs.tools.notebook

A notebook is JSON, of the format nbformat 4.5. `markdown_of` makes the site's page from it.
"""

import ast
import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[1] / "first_steps.ipynb"
RICH = {"text/html": "_repr_html_", "image/png": "_repr_png_"}  # the displays of objects

Cell = dict[str, Any]


def source_of(cell: Cell) -> str:
    return "".join(cell["source"])


def code_of(notebook: dict[str, Any]) -> list[str]:
    """Returns the source of each cell of code."""
    return [source_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def executed(notebook: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs the cells of code in one namespace; returns the notebook with outputs, and the names.

    Standard error, to which progress is written, is left out.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            outputs = _outputs(source_of(cell), names, count)
            cell = {**cell, "execution_count": count, "outputs": outputs}
        cells.append(cell)
    return {**notebook, "cells": cells}, names


def _outputs(source: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Runs a cell; returns what it prints, and the value of its last line if that is one."""
    tree, last = ast.parse(source), None
    match tree.body:
        case [*_, ast.Expr(value)]:
            last = ast.Expression(value)
            del tree.body[-1]
    printed, outputs, result = io.StringIO(), [], None
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        exec(compile(tree, f"cell {count}", "exec"), names)
        if last is not None:
            result = eval(compile(last, f"cell {count}", "eval"), names)
    if text := printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(text)})
    if result is not None:
        outputs.append(
            {
                "data": _displays(result),
                "execution_count": count,
                "metadata": {},
                "output_type": "execute_result",
            }
        )
    return outputs


def _displays(value: Any) -> dict[str, Any]:
    """Returns the displays of an object by their type."""
    found: dict[str, Any] = {}
    for kind, method in RICH.items():
        if hasattr(value, method) and (shown := getattr(value, method)()) is not None:
            is_text = isinstance(shown, str)
            found[kind] = _lines(shown) if is_text else base64.b64encode(shown).decode()
    return {**found, "text/plain": _lines(repr(value))}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def markdown_of(notebook: dict[str, Any]) -> str:
    """Returns the notebook as a page in Markdown; pictures are in the page itself."""
    parts = []
    for cell in notebook["cells"]:
        source = source_of(cell)
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += map(_markdown_of_output, cell["outputs"])
    return "\n\n".join(parts) + "\n"


def _markdown_of_output(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return _fenced("".join(output["text"]))
    data = output["data"]
    if "text/html" in data:
        return f"<div>{''.join(data['text/html'])}</div>"
    if "image/png" in data:
        return f'<div><img alt="" src="data:image/png;base64,{data["image/png"]}"></div>'
    return _fenced("".join(data["text/plain"]))


def _fenced(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


def read(path: Path = NOTEBOOK) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def write(notebook: dict[str, Any], path: Path = NOTEBOOK) -> None:
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    notebook, _ = executed(read())
    write(notebook)


if __name__ == "__main__":
    main()
