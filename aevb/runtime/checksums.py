"""Digests inside JSON content, to detect damage."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def as_read_back(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns content as it is read back from a JSON file, with lists for tuples."""
    return json.loads(json.dumps(content))


def with_digest(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content with the SHA-256 of its JSON as its last entry, "digest"."""
    return {**content, "digest": _digest(content)}


def is_sound(found: Mapping[str, Any]) -> bool:
    """Returns whether the digest matches the rest, also after a round trip through JSON."""
    content = {name: value for name, value in found.items() if name != "digest"}
    return found.get("digest") == _digest(content)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
