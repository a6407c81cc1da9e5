"""The scripts of pages, run by a JavaScript engine without a browser."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from py_mini_racer import MiniRacer

from aevb.reports.pages import PARTS

# `atob`, which browsers have and the bare engine does not.
ATOB = """
function atob(text) {
  const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  let out = "", bits = 0, count = 0;
  for (const letter of text.replace(/=+$/, "")) {
    bits = ((bits << 6) | letters.indexOf(letter)) & 0xffffff;
    count += 6;
    if (count >= 8) out += String.fromCharCode((bits >> (count -= 8)) & 255);
  }
  return out;
}
"""


class Engine:
    """An engine with operations.js in it, and a program that it has compiled."""

    def __init__(self, program: dict[str, Any]):
        self._engine = MiniRacer()
        self._engine.eval(ATOB + (PARTS / "operations.js").read_text())
        self._engine.eval(f"const program = compile({json.dumps(program)});")

    def __call__(self, inputs: Sequence[float] | np.ndarray) -> np.ndarray:
        """Returns the program's numbers, row by row, at inputs [Z]."""
        values = json.dumps([float(value) for value in inputs])
        found: Any = self._engine.eval(f"JSON.stringify(Array.from(program({values})))")
        return np.array(json.loads(found), np.float64)
