"""The site, by Sphinx: `make docs` builds it into site/, and takes every warning for an error.

The source is the repository's root, so that README.md and docs/*.md are read where they lie and
their links are the same there and here. A page has to be in PAGES, which is the order of the site.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))  # `sphinx-build` does not put it there

import reference  # noqa: E402

PAGES = {
    "Reading": [
        "docs/variational_bayes.md",
        "docs/paper.md",
        "docs/estimators.md",
        "docs/results.md",
        "docs/speed.md",
        "docs/scaling.md",
    ],
    "How to": [
        "docs/how_to/runs.md",
        "docs/how_to/sweeps.md",
        "docs/how_to/clusters.md",
        "docs/how_to/data.md",
        "docs/how_to/model.md",
        "docs/how_to/log_p.md",
    ],
    "The code": [
        "docs/design.md",
        "docs/api/index.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    ],
}

# What a page or a style sheet would fetch by itself from elsewhere.
OUTSIDE = {
    "*.html": r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["'](?:https?:)?//[^>]*""",
    "*.css": r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^)]*""",
}

project = "aevb"
author = "the authors of aevb"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = [
    "README.md",
    *(page for pages in PAGES.values() for page in pages),
    "docs/api/*",
]
exclude_patterns = [".*", "aevb", "build", "experiments", "runs", "site", "tests"]
myst_enable_extensions = ["dollarmath", "fieldlist"]
myst_heading_anchors = 4
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "aevb"
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False


def setup(app: Any) -> None:
    reference.write()
    app.connect("source-read", add_the_pages)
    app.connect("build-finished", finish)
    app.add_html_math_renderer("mathml", (inline_formula, None), (formula, None))


def add_the_pages(_: Any, name: str, source: list[str]) -> None:
    """The README is the first page; what there is besides stands in its margin."""
    if name == root_doc:
        for caption, pages in PAGES.items():
            source[0] += "\n".join(
                ["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""]
            )


def inline_formula(translator: Any, node: Any) -> None:
    translator.body.append(mathml(node.astext(), "inline"))
    raise SkipNode


def formula(translator: Any, node: Any) -> None:
    translator.body.append(
        f'<div style="padding: 0.5em 0">{mathml(node.astext(), "block")}</div>\n'
    )
    raise SkipNode


def mathml(latex: str, display: str) -> str:
    """A formula in the browser's own language for it: no script, nothing from the network."""
    spaced = r'\g<0><mspace width="0.17em" />'  # between a function's name and what it is of
    return re.sub(r"<mi>(log|exp)</mi>(?!<mo)", spaced, convert(latex, display=display))


def finish(app: Any, error: Exception | None) -> None:
    """The site opens by its index.html, and asks nobody else for anything."""
    if error is not None:
        return
    site = Path(app.outdir)
    shutil.copy(site / "README.html", site / "index.html")
    for pattern, outside in OUTSIDE.items():
        for file in site.rglob(pattern):
            if found := re.search(outside, file.read_text()):
                sys.exit(f"{file} needs the network: {found[0]}")
