"""The wheel and the sdist: their contents, and `aevb` installed without a clone."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import NamedTuple

import pytest
from programs import ON_THE_CPU, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COPIED = ("aevb", "experiments", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE",
          "CHANGELOG.md", "CITATION.cff")  # fmt: skip
UNTRACKED = shutil.ignore_patterns(
    *(
        line.rstrip("/")
        for line in (ROOT / ".gitignore").read_text().splitlines()
        if not line.startswith("/")  # a pattern with "/" applies only at the root
    )
)
PAGES = tuple(
    f"aevb/reports/pages/{path.name}"
    for path in (ROOT / "aevb" / "reports" / "pages").iterdir()
    if path.suffix in (".css", ".html", ".js")
)
OTHER_FILES = (
    *PAGES,
    "aevb/py.typed",
    "aevb/data/files/frey_rawface.mat",
    "aevb/data/files/README.md",
)
UV = Path(sys.executable).with_name("uv")  # the one that the Makefile uses


class Built(NamedTuple):
    """The files that setuptools builds from the sources."""

    wheel: Path
    sdist: Path


def build(source: Path, output: Path) -> Built:
    """Builds the wheel and the sdist like `python -m build --no-isolation`."""
    program = (
        "import sys; from setuptools import build_meta\n"
        "output = sys.argv[1]  # which they overwrite\n"
        "print(*[make(output) for make in (build_meta.build_wheel, build_meta.build_sdist)])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", program, str(output)],
        cwd=source, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wheel, sdist = done.stdout.split()[-2:]
    return Built(output / wheel, output / sdist)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Returns the wheel and the sdist built from a copy of the clone."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=UNTRACKED)
        else:
            shutil.copy(ROOT / name, source / name)
    return build(source, output)


def names_of(wheel: Path) -> set[str]:
    """Returns the names of the wheel's files, without its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    return {name for name in names if ".dist-info/" not in name}


def metadata_of(wheel: Path, file: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"aevb-{PROJECT['version']}.dist-info/{file}").decode()


def metadata(wheel: Path) -> Message:
    return Parser().parsestr(metadata_of(wheel, "METADATA"))


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(built: Built):
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "aevb").rglob("*.py")}
    assert names_of(built.wheel) == sources | set(OTHER_FILES)
    assert built.wheel.name == f"aevb-{PROJECT['version']}-py3-none-any.whl"


def test_the_wheel_holds_the_texts_of_the_experiments(built: Built):
    with zipfile.ZipFile(built.wheel) as archive:
        shipped = archive.read("aevb/experiments/frey_faces.py")
    assert shipped == (ROOT / "experiments" / "frey_faces.py").read_bytes()


def test_the_sdist_makes_the_same_wheel(built: Built, tmp_path: Path):
    with tarfile.open(built.sdist) as archive:
        assert not [member.name for member in archive if member.issym() or member.islnk()]
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert not (source / "tests").exists()
    assert (source / "CHANGELOG.md").exists()
    again = build(source, tmp_path)
    assert names_of(again.wheel) == names_of(built.wheel)
    assert metadata_of(again.wheel, "METADATA") == metadata_of(built.wheel, "METADATA")


def parts_of(requirement: str) -> set[str]:
    """Returns a library's name and its version limits as a set, since their order is irrelevant."""
    return set(re.findall(r"[<>=!~]+[\w.]+|[\w-]+", requirement))


def test_the_metadata_are_those_of_pyproject(built: Built):
    found = metadata(built.wheel)
    assert found["Version"] == PROJECT["version"]
    assert found["Requires-Python"] == PROJECT["requires-python"]
    needed = [text.replace(" ", "") for text in found.get_all("Requires-Dist", [])]
    required = [parts_of(text) for text in needed if ";" not in text]
    assert required == [parts_of(text) for text in PROJECT["dependencies"]]
    extras = PROJECT["optional-dependencies"]
    assert set(found.get_all("Provides-Extra", [])) == extras.keys()
    assert extras.keys() == {"cluster", "cuda", "tpu", "tensorboard", "wandb"}
    for name, (requirement,) in extras.items():
        assert f'{requirement};extra=="{name}"' in needed


def test_the_entry_point_is_a_function(built: Built):
    text = metadata_of(built.wheel, "entry_points.txt")
    assert text.split() == ["[console_scripts]", "aevb", "=", "aevb.cli.main:main"]
    assert callable(EntryPoint("aevb", "aevb.cli.main:main", "console_scripts").load())


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder into which the wheel is installed."""
    folder = tmp_path_factory.mktemp("installed")
    command = [UV, "pip", "install", "--quiet", "--offline", "--no-cache", "--no-deps"]
    command += ["--python", sys.executable, "--target", folder, built.wheel]
    subprocess.run(list(map(str, command)), check=True, timeout=300)
    return folder


def python(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with the libraries and the wheel.

    The option -S leaves out the editable install of the clone.
    """
    libraries = sysconfig.get_path("purelib")
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=cwd,
        env={**os.environ, **ON_THE_CPU, "PYTHONPATH": f"{installed}{os.pathsep}{libraries}"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_the_installed_command_works_without_a_clone(installed: Path, tmp_path: Path):
    found = python(installed, tmp_path, "-c", "import aevb; print(aevb.__file__, aevb.__version__)")
    assert found.stdout.split() == [str(installed / "aevb" / "__init__.py"), PROJECT["version"]]
    command = str(installed / "bin" / "aevb")
    helped = python(installed, tmp_path, command, "run", "--config=mnist", "--help")
    assert helped.returncode == 0, helped.stderr
    assert "--config.data.name='mnist'" in helped.stdout
    refused = python(installed, tmp_path, command, "run", "--config.model.num_latents=0")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: config.model.num_latents is 0")


@pytest.mark.slow
def test_the_installed_package_trains_on_the_frey_faces_and_evaluates(
    installed: Path, tmp_path: Path
):
    command = str(installed / "bin" / "aevb")
    small = ["--config.train.num_examples=2000", "--config.model.hidden=(8,)"]
    done = python(installed, tmp_path, command, "run", *small, "--workdir=run")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["data"]["name"] == "frey_faces"
    assert summary["num_examples"] == 2000
    assert summary["versions"]["aevb"] == PROJECT["version"]
    few = ["--num_points=3", "--num_samples=10", "--estimators=importance"]
    done = python(installed, tmp_path, command, "evaluate", "--workdir=run", *few)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "marginal.json").exists()
