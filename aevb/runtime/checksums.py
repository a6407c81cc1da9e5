"""JSON content that carries its own digest, so that damage to it is noticed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def sign(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with the SHA-256 of its JSON as its last entry, "digest"."""
    return {**content, "digest": _digest(content)}


def is_sound(signed: Mapping[str, Any]) -> bool:
    """Whether the digest is that of the rest, which may have been to disk and back."""
    content = {name: value for name, value in signed.items() if name != "digest"}
    return signed.get("digest") == _digest(content)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
