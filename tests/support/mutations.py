"""Reads mutations.txt and makes its mutations.

The code of a mutation is found in the syntax tree, so that it can be moved and formatted without a
change there.
"""

import ast
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent.parent
HOLE = re.compile("_[a-z]?")  # a name in a mutation's code that stands for any expression
NAME = re.compile(r"(?<!\w)[A-Za-z]\w+")

Holes = dict[str, ast.expr]  # what each of them stands for


class Mutation(NamedTuple):
    """One edit."""

    name: str
    where: str  # a function, class or variable, after as many of the names around it as needed
    old: str  # an expression or a statement that occurs there exactly once
    new: str
    only: str = ""  # a word in the names of the tests to run first


def read_mutations(text: str) -> list[Mutation]:
    """Parses the format that mutations.txt describes at its top."""
    mutations = []
    for block in re.split(r"\n(?=\S)", text):  # a line that is not indented begins a block
        if not block.startswith("#"):
            head, _, code = block.partition("\n")
            old, new = code.split("=>")
            name, where, *only = (part.strip() for part in head.split("|"))
            mutations.append(Mutation(name, where, old.strip(), new.strip(), *only))
    return mutations


MUTATIONS = read_mutations((Path(__file__).parent / "mutations.txt").read_text())


def mutated(mutation: Mutation) -> tuple[Path, str]:
    """Returns the module that a mutation is in, and its text with the mutation.

    Raises:
        ValueError: the code to be replaced does not occur exactly once.
    """
    found = []
    names = [*mutation.where.split("."), *NAME.findall(mutation.old)]
    for module in sorted((ROOT / "aevb").rglob("*.py")):
        text = _text(module)
        if all(name in f"{module} {text}" for name in names):  # else parsing it is a waste
            edit = _Edit(mutation, module.relative_to(ROOT / "aevb").with_suffix("").parts)
            tree = edit.visit(ast.parse(text))
            found += edit.count * [(module, tree)]
    if len(found) != 1:
        raise ValueError(
            f"{mutation.name!r}: {mutation.where} holds its code {len(found)} times, not once"
        )
    [(module, tree)] = found
    return module, ast.unparse(tree)


@functools.cache
def _text(module: Path) -> str:
    return module.read_text()


@functools.cache
def unparsed(module: Path) -> str:
    """Returns a module's text in the form in which `mutated` returns it."""
    return ast.unparse(ast.parse(_text(module)))


class _Edit(ast.NodeTransformer):
    """Replaces a mutation's code in a module, and counts how often."""

    def __init__(self, mutation: Mutation, module: tuple[str, ...]) -> None:
        self.where = mutation.where.split(".")
        self.old, self.new = _parsed(mutation.old, mutation.new)
        self.names = module  # the qualified name of what is visited
        self.count = 0

    def visit(self, node: ast.AST) -> Any:
        outer = self.names
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.Assign(targets=[ast.Name(id=name)])
                | ast.AnnAssign(target=ast.Name(id=name))
            ):
                self.names = (*outer, name)
        names, holes = iter(self.names), {}
        is_there = _matches(self.old, node, holes) and all(name in names for name in self.where)
        node = self.generic_visit(node)
        self.names = outer
        if is_there:
            self.count += 1
            return _Filled(holes).visit(self.new)
        return node


def _parsed(*codes: str) -> Sequence[ast.AST]:
    """Parses expressions, or statements if they are not all expressions."""
    statements = [ast.parse(code).body[0] for code in codes]
    expressions = [node.value for node in statements if isinstance(node, ast.Expr)]
    return expressions if len(expressions) == len(codes) else statements


def _matches(code: Any, node: Any, holes: Holes) -> bool:
    """Compares code with a part of a syntax tree, and records what the holes stand for."""
    if isinstance(code, ast.Name) and HOLE.fullmatch(code.id):
        held = holes.setdefault(code.id, node)
        return isinstance(node, ast.expr) and ast.dump(held) == ast.dump(node)
    if type(code) is not type(node):
        return False
    if isinstance(code, ast.AST):
        fields = ast.iter_fields(code)
        return all(_matches(value, getattr(node, field), holes) for field, value in fields)
    if isinstance(code, list):
        pairs = zip(code, node, strict=False)
        return len(code) == len(node) and all(_matches(*pair, holes) for pair in pairs)
    return code == node


class _Filled(ast.NodeTransformer):
    """Puts expressions into the holes of code."""

    def __init__(self, holes: Holes) -> None:
        self.holes = holes

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.holes[node.id] if HOLE.fullmatch(node.id) else node
