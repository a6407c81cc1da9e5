"""Pages for a browser, each one file that works offline, made of the parts in this folder."""

import html
import json
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
        content: what its scripts show, as JSON.
    """
    parts = {
        "title": html.escape(title),
        "style": (PARTS / "pages.css").read_text(),
        "body": (PARTS / f"{name}.html").read_text(),
        "content": json.dumps(content).replace("<", "\\u003c"),  # or "</script>" would end it
        "scripts": "\n".join((PARTS / file).read_text() for file in SCRIPTS[name]),
    }
    text = (PARTS / "frame.html").read_text()
    for part, value in parts.items():
        before, mark, after = text.partition(f"<!-- {part} -->")
        assert mark, part
        text = before + value + after
    return text
