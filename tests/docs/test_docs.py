"""The documents: valid links and commands, code that runs, and a site with all pages."""

import ast
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from programs import ROOT

from aevb import data
from aevb.algorithms.base import Algorithm
from aevb.config import OPTIONS, default_config, flatten
from aevb.data import Options
from aevb.distributions import DiagNormal
from aevb.losses import BOUNDS, Guide
from docs.tools import docstrings

DOCS = ROOT / "docs"
HOW_TO = DOCS / "how_to"
TEXTS = {
    path: path.read_text()
    for folder in ("docs", "aevb", "experiments", "tests")
    for path in (*ROOT.glob("*.md"), *sorted((ROOT / folder).rglob("*.md")))
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
INLINE = re.compile(r"`([^`\n]+)`")

# The documents with blocks of Python, and the test that runs each.
RUN_BY = {
    ROOT / "README.md": "test_readme",
    DOCS / "variational_bayes.md": "test_variational_bayes",
    HOW_TO / "data.md": __name__,
    HOW_TO / "model.md": __name__,
    HOW_TO / "log_p.md": __name__,
    HOW_TO / "runs.md": "test_readme",
    HOW_TO / "export.md": "test_export_page",
}

MAKEFILE = (ROOT / "Makefile").read_text()
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("scripts", {})
FIELDS = set(flatten(default_config()))


class Command(NamedTuple):
    document: Path
    words: list[str]


def prose(text: str) -> str:
    """Returns the text without blocks and inline code, in which a bracket is not a link."""
    return INLINE.sub("", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """Returns the anchors of the headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in kept}


def blocks(document: Path, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(TEXTS[document]) if found == language]


def commands() -> list[Command]:
    """Returns the commands of all shell blocks."""
    return [
        Command(document, words)
        for document in TEXTS
        for block in blocks(document, "sh")
        for line in block.replace("\\\n", " ").splitlines()
        if (words := shlex.split(line, comments=True))
    ]


def is_target(name: str) -> bool:
    return re.search(rf"^{re.escape(name)}:", MAKEFILE, re.MULTILINE) is not None


def command_of(name: str) -> Path:
    """Returns the file of `aevb NAME`."""
    return ROOT / "aevb" / "cli" / f"{name}.py"


def program_of(words: list[str]) -> tuple[Path, list[str]]:
    """Returns the file that `python WORDS` runs, and its arguments."""
    if words[0] != "-m":
        return ROOT / words[0], words[1:]
    path = ROOT / words[1].replace(".", "/")
    return (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")), words[2:]


def with_its_neighbors(script: Path) -> str:
    """Returns the source of a program, of its command, and of its neighbors that it imports."""
    source = script.read_text()
    names = re.findall(r"^(?:from|import) \.?(\w+)", source, re.MULTILINE)
    files = [script.parent / f"{name}.py" for name in names]
    files += [command_of(name) for name in re.findall(r"^from aevb\.cli\.(\w+)", source, re.M)]
    return "\n".join([source, *(file.read_text() for file in files if file.exists())])


def broken(document: Path, text: str) -> list[str]:
    """Returns the broken links of a document."""
    found = []
    for link in LINK.findall(prose(text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        headings = anchors(TEXTS.get(target, "") if path else text)
        if not target.exists() or (anchor and anchor not in headings):
            found.append(link)
    return found


@pytest.mark.parametrize("document", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_and_picture_of_a_document_exists(document: Path):
    assert not broken(document, TEXTS[document])


def test_the_check_of_links_finds_a_broken_one():
    links = ("paper.md", "papers.md", "curve.png", "paper.md#figure-9", "#a-b", "#c")
    text = "# A b\n" + " ".join(f"![picture]({link})" for link in links)
    assert broken(DOCS / "speed.md", text) == ["papers.md", "curve.png", "paper.md#figure-9", "#c"]


def test_every_picture_is_shown_in_a_document():
    shown = {
        (document.parent / link).resolve()
        for document, text in TEXTS.items()
        for link in LINK.findall(prose(text))
    }
    assert set(DOCS.rglob("*.png")) <= shown


def test_every_block_of_code_is_in_a_language_that_is_tested():
    languages = {found for text in TEXTS.values() for found, _ in FENCE.findall(text)}
    assert languages <= {"python", "sh"}
    for document, text in TEXTS.items():  # every fence belongs to such a block
        assert text.count("```") == 2 * len(FENCE.findall(text)), document


def test_every_block_of_python_is_run_by_a_test():
    assert {document for document in TEXTS if blocks(document, "python")} == set(RUN_BY)


@pytest.mark.parametrize("x64", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_code_of_the_pages_on_a_users_own_model_runs_in_float32_and_float64(x64: bool):
    user: dict[str, Any] = {}
    with jax.enable_x64(x64):
        for document in (HOW_TO / "model.md", HOW_TO / "log_p.md"):
            for block in blocks(document, "python"):
                exec(compile(block, str(document), "exec"), user)
    assert user["estimate"].value < 0.0
    assert user["estimate"].value.dtype == (np.float64 if x64 else np.float32)


def test_the_code_of_the_page_on_a_users_own_data_makes_a_dataset(tmp_path: Path):
    _, block = blocks(HOW_TO / "data.md", "python")
    user: dict[str, Any] = {}
    exec(compile(block, str(HOW_TO / "data.md"), "exec"), user)
    x = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    np.save(tmp_path / "spectra.npy", x)
    entry = user["get_entries"]()["dataset"]["spectra"]
    dataset = data.load_entry("spectra", entry, Options(dir=str(tmp_path)))
    np.testing.assert_array_equal(np.concatenate([*dataset.splits.values()]), x)
    assert ([*map(len, dataset.splits.values())], dataset.kind) == ([7, 1, 2], "real")
    np.testing.assert_array_equal(dataset.preprocess(jax.random.key(0), x[0]), x[0])


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")  # needed by optax's Adam
def test_the_code_of_the_page_on_data_fills_missing_values():
    block, _ = blocks(HOW_TO / "data.md", "python")
    user: dict[str, Any] = {}
    exec(compile(block, str(HOW_TO / "data.md"), "exec"), user)
    first, filled = user["first"], user["filled"]
    is_missing = np.isnan(first)
    np.testing.assert_allclose(filled.mean[~is_missing], first[~is_missing], rtol=1e-4)
    assert np.all(user["low"] <= user["high"])
    assert np.all(user["low"][is_missing] < user["high"][is_missing])


def test_every_shell_command_of_a_document_has_an_existing_target_or_flag():
    found = commands()
    assert {command.words[0] for command in found} >= {"make", ".venv/bin/python"}
    for document, (program, *rest) in found:
        where = f"{document}: {program} {' '.join(rest)}"
        if program == "make":
            assert all(is_target(word) for word in rest if "=" not in word), where
            continue
        if program in SCRIPTS:
            script, words = command_of(rest[0]), rest[1:]
        else:
            assert program in ("python", ".venv/bin/python"), where
            script, words = program_of(rest)
        source = with_its_neighbors(script)
        places = ("runs/", "file:", "images:")
        flags = [word for word in words if word != "RUN" and not word.startswith(places)]
        names = [re.split("[=.]", flag.removeprefix("--"))[0] for flag in flags]
        assert all(flag.startswith("--") for flag in flags), where
        for name in names:
            assert name == "help" or re.search(rf'"(--)?{name}"', source), f"{where}: {name}"


@pytest.mark.parametrize("document", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_targets_files_and_settings_that_are_named_exist(document: Path):
    codes = INLINE.findall(FENCE.sub("", TEXTS[document]))
    for code in (*codes, *blocks(document, "sh")):  # also the comments of a block
        for target in re.findall(r"\bmake ([a-z][a-z-]*)", code):
            assert is_target(target), code
    for code in codes:
        if re.fullmatch(r"(aevb|docs|experiments|tests)/[\w/]*(\.\w+)?", code):
            assert (ROOT / code).exists() or "spectra" in code, code
    for field in re.findall(r"--(?:config\.|axis=)([a-z_]+\.[a-z_]+)", TEXTS[document]):
        assert field in FIELDS or field in OPTIONS, field


def test_every_file_of_configs_that_a_command_names_exists():
    named = re.findall(r"--config=(\S+?\.py)", "\n".join(TEXTS.values()))
    assert len(named) > 5
    assert all((ROOT / path).exists() for path in named if path != "spectra.py")


# The site


def pages() -> list[str]:
    """Returns the site's pages from a literal in docs/conf.py, whose other code needs Sphinx."""
    for statement in ast.parse((DOCS / "conf.py").read_text()).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="PAGES")], value=value):
                return [page for group in ast.literal_eval(value).values() for page in group]
    raise AssertionError("docs/conf.py has no PAGES")


def test_the_site_has_every_page_once_and_no_other():
    of_the_code = {path for path in TEXTS if path.is_relative_to(ROOT / "aevb")}
    written = {str(path.relative_to(ROOT)) for path in TEXTS.keys() - of_the_code}
    found = ["README.md", *pages()]
    assert len(found) == len(set(found))
    others = {"docs/reference.rst", "docs/first_steps.ipynb"}
    assert set(found) == written | others, "PAGES of docs/conf.py is another list"


def test_the_comment_of_a_field_may_be_behind_above_or_below_it():
    comments = docstrings.comments_of
    assert comments(DiagNormal) == {"mean": "[Z]", "log_var": "[Z], log sigma^2"}  # behind it
    guide = comments(Guide)
    assert guide["sample_and_log_prob"].startswith("z and log q(z|x) at once")  # above it
    assert "at once" not in guide["kl"]
    assert "-> the next state" in comments(Algorithm)["update"]  # below it
    options = comments(Options)
    assert options["manual_dir"].endswith("downloads/manual in dir")  # behind it and below it
    assert "downloads" not in options["split"]


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("log q(z|x) + log p(z|x)", r"log q(z\|x) + log p(z\|x)"),
        ("*args, 2 * x_k and x_", r"\*args, 2 \* x_k and x\_"),
        ("`a * b|c_` and `Guide`s", r"`a * b|c_` and `Guide`\s"),
    ],
)
def test_a_docstring_is_plain_text_except_in_backticks(text: str, markup: str):
    assert docstrings.escaped(text) == markup


def test_the_entries_of_a_table_are_named():
    lines = ["The estimators."]
    docstrings.prepare(None, "data", "aevb.losses.BOUNDS", BOUNDS, None, lines)
    assert lines[-1].startswith("Entries: `sgvb_a`, `sgvb_b`, ")


def test_the_docstring_of_a_field_is_its_comment():
    lines = ["Alias for field number 1"]
    name = "aevb.distributions.DiagNormal.log_var"
    docstrings.describe_field(None, "attribute", name, None, None, lines)
    assert lines == ["[Z], log sigma^2"]
