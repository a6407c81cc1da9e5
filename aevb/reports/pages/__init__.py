"""Builds HTML pages from the parts in this folder; each page is one file that works offline."""

import html
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PARTS = Path(__file__).parent
SCRIPTS = {  # page -> its scripts, in the order in which they run
    "explorer": ("page.js", "decoding.js", "chart.js", "explorer.js"),
    "comparison": ("page.js", "chart.js", "comparison.js"),
}


def page(name: str, title: str, content: Mapping[str, Any]) -> str:
    """Returns a page of `SCRIPTS` as HTML that includes its style, scripts and content.

    Args:
        content: the data for the scripts, embedded as JSON; non-finite numbers become null.
    """
    as_json = json.dumps(_finite(content), allow_nan=False)
    parts = {
        "title": html.escape(title),
        "style": (PARTS / "pages.css").read_text(encoding="utf-8"),
        "body": (PARTS / f"{name}.html").read_text(encoding="utf-8"),
        "content": as_json.replace("<", "\\u003c"),  # a "</script>" in it would end the element
        "scripts": "\n".join((PARTS / file).read_text(encoding="utf-8") for file in SCRIPTS[name]),
    }
    text = (PARTS / "frame.html").read_text(encoding="utf-8")
    for part, value in parts.items():
        before, mark, after = text.partition(f"<!-- {part} -->")
        assert mark, part
        text = before + value + after
    return text


def _finite(content: Any) -> Any:
    """Returns the content with None for every non-finite number.

    JSON has neither NaN nor infinity, and a browser cannot parse content that contains one.
    """
    match content:
        case float():
            return content if math.isfinite(content) else None
        case Mapping():
            return {name: _finite(value) for name, value in content.items()}
        case list() | tuple():
            return [_finite(value) for value in content]
        case _:
            return content
