"""Writes the reference from the package's source: a page of Markdown for each public module.

Nothing is imported. A docstring here is plain text with code in backticks and the sections Args,
Returns and Raises. The comment of a field states its shape and unit, so it is part of the page.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "aevb"
PAGES = ROOT / "docs" / "api"
LONG = 60  # length in characters above which a value is omitted


def module_of(path: Path) -> str:
    """Returns the name of a module: aevb/data/__init__.py is "aevb.data"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_public(module: str) -> bool:
    return not any(part.startswith("_") for part in module.split("."))


SOURCES = {
    module: path for path in sorted(PACKAGE.rglob("*.py")) if is_public(module := module_of(path))
}


class Entry(NamedTuple):
    """A directive of a page: what it documents, its text, and the entries within it."""

    kind: str  # "function", "class", "data", ...
    title: str  # a name with its signature
    options: Mapping[str, str]
    text: str
    inner: tuple["Entry", ...] = ()


def page(module: str) -> str:
    """Returns the Markdown of a module's page."""
    source = SOURCES[module].read_text()
    tree = ast.parse(source)
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    again = [
        f"{{py:obj}}`{alias.name} <{node.module}.{alias.name}>`"
        for node in imported
        for alias in node.names
        if alias.asname == alias.name
    ]
    ours = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in imported
        for alias in node.names
        if str(node.module).startswith("aevb")
    }
    blocks = [f"# {module}", f"```{{py:module}} {module}\n```", markdown(ast.get_docstring(tree))]
    if again:
        blocks.append(f"Also to be had from here: {', '.join(again)}.")
    blocks += [directive(entry) for entry in _entries(_InFull(ours).visit(tree), source)]
    return "\n\n".join(block for block in blocks if block) + "\n"


class _InFull(ast.NodeTransformer):
    """Replaces the package's names by their full names, so that they become links."""

    def __init__(self, ours: Mapping[str, str]):
        self.ours = ours

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Name(self.ours.get(node.id, node.id), node.ctx), node)


def contents() -> str:
    """Returns the page that lists the modules, each with the first line of its docstring."""
    rows = []
    for module, path in SOURCES.items():
        about = ast.get_docstring(ast.parse(path.read_text())) or ""
        first = about.partition("\n\n")[0].replace("\n", " ")
        rows.append(f"| [{module}]({module}.md) | {markdown(first)} |")
    short = [f"{module.removeprefix('aevb.')} <{module}>" for module in SOURCES]
    tree = "\n".join(["```{toctree}", ":hidden:", "", *short, "```"])
    about = (
        "Made from the docstrings. The letters of shapes are those of [aevb.types](aevb.types.md); "
        "[design](../design.md) says which module is on top of which."
    )
    table = "\n".join(["| module | |", "|---|---|", *rows])
    return f"# Reference\n\n{about}\n\n{table}\n\n{tree}\n"


def write() -> None:
    """Writes all pages anew, and deletes those of modules that no longer exist."""
    PAGES.mkdir(exist_ok=True)
    texts = {"index": contents()} | {module: page(module) for module in SOURCES}
    for old in PAGES.glob("*.md"):
        if old.stem not in texts:
            old.unlink()
    for name, text in texts.items():
        (PAGES / f"{name}.md").write_text(text)


def markdown(docstring: str | None) -> str:
    """Returns a docstring as Markdown: sections as lists of fields, and text without any markup."""
    lines, section = [], ""
    for line in (docstring or "").splitlines():
        if line in ("Args:", "Returns:", "Raises:"):
            section = line
        elif not section or (line and not line.startswith(" ")):
            section = ""
            lines.append(line if line.startswith("    ") else _plain(line))
        else:
            lines.append(_field(section, line))
    return "\n".join(lines)


def _field(section: str, line: str) -> str:
    """Formats a line of a section; a line with more indentation continues the last one."""
    text = line.removeprefix("    ")
    named = re.match(r"([\w., *]+): (.*)", text)
    if not text.strip() or text.startswith(" "):
        return f"    {_plain(text.strip())}" if text.strip() else ""
    if section == "Returns:":
        return f":returns: {_plain(text)}"
    if named is None:
        return f"    {_plain(text)}"
    role = {"Args:": "param", "Raises:": "raises"}[section]
    return f":{role} {named[1].lstrip('*')}: {_plain(named[2])}"


def _plain(text: str) -> str:
    """Escapes what Markdown would treat as markup; a name in backticks may become a link."""
    parts = re.split(r"(`+[^`]+`+)", text)
    escaped = [re.sub(r"([*_<$\[\]|~])", r"\\\1", part) for part in parts[::2]]
    parts[::2] = escaped
    parts[1::2] = [re.sub(r"^`[A-Za-z_][\w.]*`$", r"{py:obj}\g<0>", part) for part in parts[1::2]]
    return "".join(parts)


def directive(entry: Entry) -> str:
    """Formats an entry for MyST; its fence is longer than the fences within it."""
    inner = [directive(each) for each in entry.inner]
    fence = "`" * (6 if inner else 5)
    options = [
        f":{name}: {json.dumps(value) if value else ''}" for name, value in entry.options.items()
    ]
    head = "\n".join([f"{fence}{{py:{entry.kind}}} {entry.title}", *options])
    return "\n\n".join(block for block in (head, entry.text, *inner) if block) + f"\n{fence}"


def _entries(tree: ast.Module | ast.ClassDef, source: str) -> Iterator[Entry]:
    """Yields the public entries of a module or a class, in the order of the source."""
    in_class = isinstance(tree, ast.ClassDef)
    comments = _comments(tree, [*source.splitlines(), ""])
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        match node:
            case ast.FunctionDef(name=name) if _is_shown(name, in_class):
                yield _function(node, in_class)
            case ast.ClassDef(name=name) if _is_shown(name):
                text = markdown(ast.get_docstring(node))
                yield Entry("class", name, {}, text, tuple(_entries(node, source)))
            case ast.AnnAssign(target=ast.Name(id=name), annotation=kind) if _is_shown(name):
                options = {"type": ast.unparse(kind)} | _value(node.value)
                text = _said(node, after, comments)
                yield Entry("attribute" if in_class else "data", name, options, text)
            case ast.Assign(targets=[ast.Name(id=name)]) if _is_shown(name):
                text = _said(node, after, comments)
                yield Entry("attribute" if in_class else "data", name, _value(node.value), text)


def _is_shown(name: str, in_class: bool = False) -> bool:
    return not name.startswith("_") or (in_class and name == "__call__")


def _function(node: ast.FunctionDef, in_class: bool) -> Entry:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    text = markdown(ast.get_docstring(node))
    if "property" in decorators:
        kind = {} if node.returns is None else {"type": ast.unparse(node.returns)}
        return Entry("property", node.name, kind, text)
    if in_class and "staticmethod" not in decorators:
        del (node.args.posonlyargs or node.args.args)[0]  # self
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    title = f"{node.name}({ast.unparse(node.args)}){returns}"
    options = {name: "" for name in ("staticmethod", "classmethod") if name in decorators}
    return Entry("method" if in_class else "function", title, options, text)


def _said(
    node: ast.Assign | ast.AnnAssign, after: ast.stmt | None, comments: Mapping[int, str]
) -> str:
    """Returns the text of a variable: its comments, the string behind it, and a table's entries."""
    parts = [_plain(comments[node.lineno])]
    match after:
        case ast.Expr(value=ast.Constant(value=str(text))):
            parts.append(markdown(inspect.cleandoc(text)))
    match node.value:
        case ast.Dict(keys=keys):
            named = [f"`{key.value}`" for key in keys if isinstance(key, ast.Constant)]
            parts.append(f"Entries: {', '.join(named)}." if named else "")
    return "\n\n".join(filter(None, parts))


def _value(value: ast.expr | None) -> dict[str, str]:
    text = "" if value is None else ast.unparse(value)
    return {"value": text} if 0 < len(text) <= LONG else {}


def _comments(tree: ast.Module | ast.ClassDef, lines: list[str]) -> dict[int, str]:
    """Maps the first line of each assignment to the text of the comments beside it.

    Comments between two fields of a class belong to the upper one, if it has no other comment or
    if they are indented like a continuation of it; otherwise they belong to the lower one.
    """
    found, taken = {}, set[int]()
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.end_lineno is None:
            continue
        above, start, end = [], node.lineno - 1, node.end_lineno
        while lines[start - 1].strip().startswith("#") and start not in taken:
            start -= 1
            above.insert(0, lines[start])
        behind = lines[end - 1].encode()[node.end_col_offset :].decode().strip()
        behind = [behind] if behind.startswith("#") else []
        while isinstance(tree, ast.ClassDef) and lines[end].strip().startswith("#"):
            if behind and not lines[end].strip().startswith("#  ") and end == node.end_lineno:
                break
            behind.append(lines[end])
            end += 1
            taken.add(end)
        said = [line.strip().lstrip("# ") for line in above + behind]
        found[node.lineno] = " ".join(line for line in said if not line.startswith("pyright:"))
    return found
