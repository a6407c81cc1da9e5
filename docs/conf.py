"""The Sphinx configuration of the site: `make docs` builds it into site/, with warnings as errors.

The source is the repository's root, so that README.md and docs/*.md are read in place and their
links work both there and on the site. Every page must be in PAGES, which is the order of the site.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for autodoc, and for docs.tools

from docs.tools import notebook  # noqa: E402

PAGES = {
    "Reading": [
        "docs/first_steps.ipynb",
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
        "docs/how_to/export.md",
        "docs/troubleshooting.md",
        "docs/doctor.md",
    ],
    "The code": [
        "docs/design.md",
        "docs/reference.rst",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    ],
}

# Whatever a page or a style sheet would fetch by itself from another site.
OUTSIDE = {
    "*.html": r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["'](?:https?:)?//[^>]*""",
    "*.css": r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^)]*""",
}

project = "aevb"
author = "the authors of aevb"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "docs.tools.docstrings",
]
root_doc = "README"
source_suffix = {".rst": "restructuredtext", ".md": "markdown", ".ipynb": "markdown"}
include_patterns = [
    "README.md",
    *(page for pages in PAGES.values() for page in pages),
    "docs/api/*",
]
exclude_patterns = [".*", "aevb", "build", "experiments", "runs", "site", "tests"]
myst_enable_extensions = ["dollarmath", "fieldlist"]
myst_heading_anchors = 4
templates_path = ["docs/templates"]
default_role = "py:obj"  # of a name in backticks, which becomes a link if it is known
autodoc_default_options = {"members": True, "undoc-members": True}
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "aevb"
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False


def setup(app: Any) -> None:
    app.connect("source-read", add_the_pages)
    app.connect("source-read", read_the_notebook)
    app.connect("build-finished", finish)
    app.add_html_math_renderer("mathml", (inline_formula, None), (formula, None))


def add_the_pages(_: Any, name: str, source: list[str]) -> None:
    """Makes the README the first page, with the other pages in its margin."""
    if name == root_doc:
        for caption, pages in PAGES.items():
            source[0] += "\n".join(
                ["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""]
            )


def read_the_notebook(app: Any, name: str, source: list[str]) -> None:
    """Makes Markdown of a notebook's JSON."""
    if Path(app.env.doc2path(name)).suffix == ".ipynb":
        source[0] = notebook.markdown_of(json.loads(source[0]))


def inline_formula(translator: Any, node: Any) -> None:
    translator.body.append(mathml(node.astext(), "inline"))
    raise SkipNode


def formula(translator: Any, node: Any) -> None:
    translator.body.append(
        f'<div style="padding: 0.5em 0">{mathml(node.astext(), "block")}</div>\n'
    )
    raise SkipNode


def mathml(latex: str, display: str) -> str:
    """Returns a formula as MathML, which needs no script and nothing from the network."""
    spaced = r'\g<0><mspace width="0.17em" />'  # between a function's name and its argument
    return re.sub(r"<mi>(log|exp)</mi>(?!<mo)", spaced, convert(latex, display=display))


def finish(app: Any, error: Exception | None) -> None:
    """Writes the site's index.html, and checks that no page needs the network."""
    if error is not None:
        return
    site = Path(app.outdir)
    shutil.copy(site / "README.html", site / "index.html")
    for pattern, outside in OUTSIDE.items():
        for file in site.rglob(pattern):
            if found := re.search(outside, file.read_text(encoding="utf-8")):
                sys.exit(f"{file} needs the network: {found[0]}")
