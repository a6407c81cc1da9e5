"""The direction of imports, and the files that may import each library, read from the source."""

import ast
import functools
import importlib.metadata
import operator
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from programs import python

import aevb

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "aevb"
EXPERIMENTS = ROOT / "experiments"
DOCUMENTS = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("docs/how_to/*.md")),
]

# A module imports from lower layers, and nothing from its own. A folder is one layer, whose files
# may import one another; a file of a folder that is listed separately has its own layer. A new
# module must be added here; its layer is a design decision.
LAYERS = (
    ("types", "errors"),
    ("runtime", "registry"),
    ("distributions", "discrete", "convolutions"),
    ("likelihoods", "losses", "reparam", "inference"),
    ("latents", "factors", "missing", "labels", "sequences", "enumeration"),
    ("proposals",),
    ("guides", "priors", "networks", "marginal", "classical"),
    ("hierarchies", "learned_baseline"),
    ("state_space",),
    ("vae",),
    ("algorithms.base",),
    ("label_models",),
    ("schedules",),
    ("optimizers",),
    ("algorithms",),
    ("data", "storage"),
    ("evaluation",),
    ("doctor",),
    ("training",),
    ("config",),
    ("building",),
    ("experiment",),
    ("reports",),
    ("runs",),
    ("sweeps",),
    ("experiments",),
    ("interactive",),
    ("cli",),
    ("__main__",),
)

# `import aevb.losses` must load jax and no other library: users reuse the mathematics in projects
# that have another neural network library, or another version of this one's.
MATHEMATICS = (
    "types", "distributions", "likelihoods", "losses", "reparam", "guides", "priors", "inference",
    "proposals", "marginal", "classical", "convolutions", "latents", "factors",
    "missing", "labels", "sequences", "discrete", "enumeration",
)  # fmt: skip

# Each library can be replaced in one place. Nothing below `config` uses a ConfigDict, so that all
# of it can be called from a notebook or a test with plain arguments.
KNOWN_TO = {
    "ml_collections": ("config", "cli"),
    "absl": ("cli",),
    "flax": ("networks",),
    "blackjax": ("inference",),
    "optax": ("schedules", "optimizers", "algorithms", "inference"),
    "orbax": ("storage",),
    "matplotlib": ("reports",),
    "tensorflow_datasets": ("data",),
    "array_record": ("data",),
    "grain": ("training",),
    "submitit": ("sweeps",),
    "PIL": ("data",),
    "filelock": ("runtime",),
    "tqdm": ("storage",),
    "tensorboardX": ("storage",),
    "wandb": ("storage",),
    "scipy": ("evaluation", "data"),
    "pyarrow": ("data",),
    "safetensors": ("runs",),
}
EVERYWHERE = ("jax", "numpy")

# These cases are handled before jax is loaded: `--help`, a wrong setting, a signal.
WITHOUT_JAX = (
    "errors", "config", "sweeps.grid", "runtime.signals", "runtime.run_lock",
    "runtime.provenance", "runtime.checksums", "runtime.paths", "cli.main",
)  # fmt: skip


class Import(NamedTuple):
    """One imported module, by its full name: "aevb.losses", "jax.numpy"."""

    module: str
    line: int


def module_of(path: Path) -> str:
    """Returns the name of the module in a file: aevb/data/__init__.py has "aevb.data"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def imports_of(module: str) -> list[Import]:
    """Returns the imports of the whole file, also within functions and for type checkers."""
    tree = ast.parse(SOURCES[module].read_text())
    return [found for node in ast.walk(tree) for found in _imports(node)]


def _imports(node: ast.AST) -> Iterator[Import]:
    match node:
        case ast.Import(names=names):
            yield from (Import(alias.name, node.lineno) for alias in names)
        case ast.ImportFrom(module=str(module), names=names, level=0):
            for alias in names:  # `from aevb import losses` imports a module
                inner = f"{module}.{alias.name}"
                yield Import(inner if inner in SOURCES else module, node.lineno)
        case ast.ImportFrom():
            raise AssertionError(f"line {node.lineno}: a relative import; the house writes aevb.…")


def unit_of(module: str) -> str | None:
    """Returns the longest entry of LAYERS that equals or contains a module of the package."""
    name = module.removeprefix("aevb.")
    entries = [entry for layer in LAYERS for entry in layer]
    fitting = [entry for entry in entries if f"{name}.".startswith(f"{entry}.")]
    return max(fitting, key=len, default=None)


def layer_of(unit: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if unit in layer)


def is_inner(imported: Import) -> bool:
    return imported.module.partition(".")[0] == "aevb"


def outer_imports() -> Iterator[tuple[str, str, int]]:
    """Yields (our module, top-level library, line) for imports outside the standard library."""
    for module in SOURCES:
        for imported in imports_of(module):
            library = imported.module.partition(".")[0]
            if library != "aevb" and library not in sys.stdlib_module_names:
                yield module, library, imported.line


def test_every_layer_has_its_modules():
    missing = [entry for layer in LAYERS for entry in layer if f"aevb.{entry}" not in SOURCES]
    assert not missing


def test_importing_the_package_imports_no_module_of_it_and_no_library():
    program = "import aevb, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(python("-c", program).split())
    assert not loaded & (set(EVERYWHERE) | set(KNOWN_TO))


def test_the_package_has_its_modules_and_load_run_as_attributes():
    named = re.findall(r"from aevb(?:\.\S+)? import (\w+) as", SOURCES["aevb"].read_text())
    assert set(named) == {*aevb.MODULES, *aevb.OF_RUNS} == set(dir(aevb)) - {"__version__"}
    for name in named:
        assert getattr(aevb, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'loses'"):
        aevb.loses  # noqa: B018


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_name_in_a_document_is_an_attribute_of_the_package(document: Path):
    names = re.findall(r"\baevb((?:\.[a-zA-Z_]\w*)+)(?![\w/])", document.read_text())
    for name in set(names) - {".png", ".py"}:
        assert operator.attrgetter(name[1:])(aevb) is not None


@pytest.mark.parametrize("module", [name for name in SOURCES if name != "aevb"])
def test_every_module_has_a_layer_and_its_imports_point_down(module: str):
    own = unit_of(module)
    assert own is not None, f"put {module} into LAYERS"
    for imported in filter(is_inner, imports_of(module)):
        other = unit_of(imported.module)
        where = f"{SOURCES[module]}:{imported.line} imports {imported.module}"
        assert other is not None, where
        assert other == own or layer_of(other) < layer_of(own), where
        if other == own:  # within a folder, or a file that imports itself
            assert SOURCES[f"aevb.{own}"].name == "__init__.py", where


def test_the_mathematics_imports_only_jax():
    """The test covers import time; optax or blackjax is imported where it is called."""
    modules = [module for module in SOURCES if unit_of(module) in MATHEMATICS]
    program = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    loaded = {name.partition(".")[0] for name in python("-c", program).split()}
    assert {"jax", "aevb"} <= loaded
    assert not loaded & KNOWN_TO.keys() - {"filelock", "scipy"}  # jax imports these


def test_each_library_is_imported_only_in_the_listed_files():
    """A library that is not there is a new dependency, which must be decided and listed."""
    users: dict[str, set[str | None]] = defaultdict(set)
    for module, library, _ in outer_imports():
        if library not in EVERYWHERE:
            users[library].add(unit_of(module))
    assert users == {library: set(units) for library, units in KNOWN_TO.items()}


@pytest.mark.parametrize("name", WITHOUT_JAX)
def test_modules_of_the_command_line_do_not_import_jax(name: str):
    libraries = {imported.module.partition(".")[0] for imported in imports_of(f"aevb.{name}")}
    assert not libraries & set(EVERYWHERE)


def test_no_experiment_has_the_name_of_an_installed_package():
    """`python experiments/run.py` puts that folder first on the path: its jax.py would hide jax."""
    taken = set(importlib.metadata.packages_distributions()) | set(sys.stdlib_module_names)
    names = {path.stem for path in EXPERIMENTS.rglob("*.py")}
    names |= {path.name for path in EXPERIMENTS.iterdir() if path.is_dir()}
    assert "run" in names
    assert not names & (taken | {"aevb"})


def test_the_design_document_lists_exactly_the_folders_and_files_of_the_package():
    design = (ROOT / "docs" / "design.md").read_text()
    on_map = set(re.findall(r"`((?:aevb|experiments|tests)/[\w/.]*)`", design))
    assert not {path for path in on_map if not (ROOT / path).exists()}
    entries = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    entries -= {"__init__.py", "__pycache__"}
    assert entries <= {path.split("/")[1] for path in on_map}


@pytest.mark.parametrize("folder", ["aevb", "experiments", "docs", "tests"])
def test_private_parts_of_jax_are_neither_imported_nor_named(folder: str):
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for name in private_parts_of_jax(node):
                raise AssertionError(f"{path}: {name}")


def private_parts_of_jax(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            dotted = [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), names=names):
            dotted = [f"{module}.{alias.name}" for alias in names]
        case ast.Attribute():
            dotted = [ast.unparse(node)]
        case _:
            dotted = []
    return [name for name in dotted if re.match(r"jax(lib)?(\.\w+)*\._[a-z]", name)]


def test_the_check_of_private_parts_of_jax_finds_one():
    for line in (
        "from jax._src import core",
        "import jaxlib._jax",
        "jax.numpy._x",
        "from jaxlib import _jax",
    ):
        assert any(private_parts_of_jax(node) for node in ast.walk(ast.parse(line))), line
