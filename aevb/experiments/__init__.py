"""The experiments that ship with the package, found by name.

Each is a link to its file in the folder `experiments` of the repository, so that its text exists
once; a wheel holds the files themselves.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
DEFAULT = "frey_faces"


def names() -> list[str]:
    """All of them."""
    return sorted(file.stem for file in FOLDER.glob("[a-z]*.py"))


def file_of(config: str) -> str:
    """The file of an experiment's name; what is no name is taken for a file."""
    return str(FOLDER / f"{config}.py") if config in names() else config
