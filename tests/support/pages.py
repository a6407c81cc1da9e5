"""The content of a page, read for tests."""

import json
import re
from typing import Any


def content_of(text: str) -> dict[str, Any]:
    """Returns the content that the page's scripts show."""
    (found,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', text)
    return json.loads(found, parse_constant=_refuse)


def _refuse(constant: str) -> Any:
    raise ValueError(f"no browser reads a page with {constant} in its JSON")
