"""Pages for a browser, each one file that works offline, made of the parts in this folder."""

import html
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PARTS = Path(__file__).parent
SCRIPTS = {  # of each page, in the order in which they run
    "explorer": ("page.js", "operations.js", "chart.js", "explorer.js"),
    "comparison": ("page.js", "chart.js", "comparison.js"),
}


def page(name: str, title: str, content: Mapping[str, Any]) -> str:
    """A page of `SCRIPTS` as HTML, with its style, its scripts and its content inside.

    Args:
        content: what its scripts show, as JSON, where a number that is not finite is null.
    """
    as_json = json.dumps(_finite(content), allow_nan=False)
    parts = {
        "title": html.escape(title),
        "style": (PARTS / "pages.css").read_text(),
        "body": (PARTS / f"{name}.html").read_text(),
        "content": as_json.replace("<", "\\u003c"),  # or "</script>" would end it
        "scripts": "\n".join((PARTS / file).read_text() for file in SCRIPTS[name]),
    }
    text = (PARTS / "frame.html").read_text()
    for part, value in parts.items():
        before, mark, after = text.partition(f"<!-- {part} -->")
        assert mark, part
        text = before + value + after
    return text


def _finite(content: Any) -> Any:
    """JSON has neither NaN nor infinity: a browser refuses the whole page for one."""
    match content:
        case float():
            return content if math.isfinite(content) else None
        case Mapping():
            return {name: _finite(value) for name, value in content.items()}
        case list() | tuple():
            return [_finite(value) for value in content]
        case _:
            return content
