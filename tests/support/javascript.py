"""The scripts of pages, run by a JavaScript engine without a browser."""

import json
import re
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
# A document in which an element remembers the properties that a script sets. All other properties
# and methods exist, do nothing and are 0 as numbers.
DOCUMENT = """
function fake(own = new Map()) {
  const otherwise = (name) => (name === Symbol.toPrimitive ? () => 0 : anything);
  return new Proxy(function () {}, {
    get: (_, name) => (own.has(name) ? own.get(name) : otherwise(name)),
    set: (_, name, value) => Boolean(own.set(name, value)),
    apply: () => anything,
  });
}
const anything = fake({ has: () => false, set: () => true }), elements = new Map();
const document = {
  documentElement: anything, createElement: () => fake(), createElementNS: () => fake(),
  getElementById(id) {
    if (!elements.has(id)) elements.set(id, fake());
    return elements.get(id);
  },
};
const getComputedStyle = anything, matchMedia = anything;
"""


class Engine:
    """An engine with decoding.js in it, and a program that it has compiled."""

    def __init__(self, program: dict[str, Any]):
        self._engine = MiniRacer()
        self._engine.eval(ATOB + (PARTS / "decoding.js").read_text())
        self._engine.eval(f"const program = compile({json.dumps(program)});")

    def __call__(self, inputs: Sequence[float] | np.ndarray) -> np.ndarray:
        """Returns the program's numbers, row by row, at inputs [Z]."""
        values = json.dumps([float(value) for value in inputs])
        found: Any = self._engine.eval(f"JSON.stringify(Array.from(program({values})))")
        return np.array(json.loads(found), np.float64)


class PageEngine:
    """An engine in which the scripts of a page have run, with a document that shows nothing."""

    def __init__(self, text: str):
        content, scripts = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
        self._engine = MiniRacer()
        self._engine.eval(ATOB + DOCUMENT)
        self._engine.eval(f"document.getElementById('content').textContent = {json.dumps(content)}")
        self._engine.eval(scripts)

    def __call__(self, expression: str) -> Any:
        """Returns the value of an expression, which may use the names of the page's scripts."""
        found: Any = self._engine.eval(f"JSON.stringify({expression} ?? null)")
        return json.loads(found)
