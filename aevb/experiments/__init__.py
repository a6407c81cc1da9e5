"""The experiments that ship with the package, found by name.

In the repository each file here is a symbolic link into the folder `experiments`, so that there is
one copy. A wheel holds the files themselves.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
DEFAULT = "frey_faces"


def names() -> list[str]:
    """Returns the names of all experiments, sorted."""
    return sorted(file.stem for file in FOLDER.glob("[a-z]*.py"))


def file_of(config: str) -> str:
    """Returns the file of an experiment, or `config` itself, as a path, if it is not a name."""
    return str(FOLDER / f"{config}.py") if config in names() else config
