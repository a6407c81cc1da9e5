"""A Sphinx extension that prepares the package's docstrings for autodoc and napoleon.

A docstring of the package is plain text with code in backticks and the sections Args, Returns and
Raises. The comment of a NamedTuple's field states its shape and unit, so it is shown on the page.
"""

import inspect
import pydoc
import re
from typing import Any

LONG = 60  # characters of a value, above which it is left out


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", prepare, priority=1)  # before napoleon
    app.connect("autodoc-process-docstring", describe_field, priority=900)  # after it
    app.connect("object-description-transform", leave_out_long_value)


def prepare(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escapes the text, and names the entries of a table."""
    if what == "data" and isinstance(obj, dict):
        lines += ["", f"Entries: {', '.join(f'`{entry}`' for entry in obj)}."]
    lines[:] = escaped("\n".join(lines)).split("\n")


def describe_field(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Replaces the docstring of a NamedTuple's field by its comment."""
    if lines and lines[0].startswith("Alias for field number"):
        owner, _, field = name.rpartition(".")
        lines[:] = [escaped(comments_of(pydoc.locate(owner)).get(field, ""))]


def leave_out_long_value(app: Any, domain: str, kind: str, content: Any) -> None:
    signature = content.parent[0]
    for node in list(signature):
        text = node.astext()
        if node.tagname == "desc_annotation" and text.startswith(" = ") and len(text) > LONG:
            signature.remove(node)


def escaped(text: str) -> str:
    """Escapes characters that are markup in reStructuredText, except in backticks."""
    parts = re.split(r"(`+[^`]+`+)", text)
    parts[::2] = [re.sub(r"[*|\\]|_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    parts[2::2] = [re.sub(r"^[\w(]", r"\\\g<0>", part) for part in parts[2::2]]  # as in `Guide`s
    return "".join(parts)


def comments_of(owner: Any) -> dict[str, str]:
    """Maps the fields of a class to the comments above, behind and below them.

    A comment between two fields belongs to the upper one if that has no other comment, or if it is
    indented like a continuation; otherwise it belongs to the lower one.
    """
    found: dict[str, list[str]] = {}
    above: list[str] = []
    for line in inspect.getsource(owner).splitlines():
        if field := re.match(r"    (\w+): [^#]*(?:# ?(.*))?$", line):
            found[field[1]] = [*above, *filter(None, [field[2]])]
            above = []
        elif comment := re.match(r"    +#( +)(.*)", line):
            last = next(reversed(found.values()), None)
            is_of_last = last == [] or (last and len(comment[1]) > 1)
            (last if last is not None and is_of_last else above).append(comment[2])
    return {name: " ".join(comments) for name, comments in found.items()}
