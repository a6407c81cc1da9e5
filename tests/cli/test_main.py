"""The command `aevb`: its subcommands, its errors, and experiments found by name."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from configs import FILES
from programs import ROOT, Done, program, python, run_program, run_python

import aevb
from aevb import experiments
from aevb.cli import main
from aevb.cli.main import COMMANDS, Command
from aevb.cli.run import report

SUMMARY = {
    "train_bound": 900.0, "train_bound_standard_error": 1.0, "test_bound": 500.0,
    "test_bound_standard_error": 2.0, "examples_per_second": 1e4, "num_examples": 1000,
    "seconds": 0.1, "data": {"kind": "grey"},
}  # fmt: skip
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def run(*arguments: str) -> Done:
    return run_program("-m", "aevb", *arguments)


# The report of a run


@pytest.mark.parametrize(
    ("name", "header"),
    [("bits_per_dim", "bits/dim"), ("dequantized_bits_per_dim", "bits/dim, dequantized (at most)")],
)
def test_a_report_has_a_column_for_bits_of_each_meaning(name: str, header: str, tmp_path: Path):
    summary = {**SUMMARY, f"train_{name}": 3.25, f"test_{name}": 3.5}
    head, train, test, *rest = report(summary, tmp_path).splitlines()
    assert head.endswith(f"std. error  {header}")
    assert (train.split()[-1], test.split()[-1]) == ("3.250", "3.500")
    assert len(head) == len(train) == len(test)
    assert not any("bits" in line for line in rest)


def test_a_report_of_a_density_of_grey_levels_states_in_one_line_that_it_has_no_bits(
    tmp_path: Path,
):
    head, _, _, why, *_ = report(SUMMARY, tmp_path).splitlines()
    assert "bits" not in head
    assert "density" in why
    assert "dequantize=True" in why
    binary = {**SUMMARY, "data": {"kind": "binary"}}
    assert "bits" not in report(binary, tmp_path)


# The table of commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_its_usage(name: str):
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"aevb {name} " in done.stdout
    assert "Traceback" not in done.stderr


def test_help_names_every_command():
    text = program("-m", "aevb", "--help")
    for name, command in COMMANDS.items():
        assert re.search(rf"^  aevb {name} +{re.escape(command.help)}$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], COMMANDS),
        (["runn"], ["runn", *COMMANDS]),
        (["--config=frey_faces"], ["--config=frey_faces", *COMMANDS]),
        (["run", "--config=cifar"], ["cifar", "frey_faces", "mnist"]),
        (["run", "--config.sede=3"], ["sede", "--help"]),  # of the default config
        (["run", "mnist"], ["mnist", "--config.FIELD=VALUE"]),
    ],
)
def test_an_unknown_command_or_experiment_is_refused_in_one_line_with_status_2(
    arguments: list[str], words: list[str]
):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    "flags",
    [
        ["--help"],
        pytest.param(
            ["--config=tests/support/small_run.py", "--config.train.num_examples=500"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_closed_standard_output_does_not_stop_a_command(flags: list[str], tmp_path: Path):
    """The case is `aevb run --help | head`; a run also finishes."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "aevb", "run", f"--workdir={tmp_path / 'run'}", *flags]
    done = subprocess.run(
        command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert done.returncode == 0, done.stderr
    for word in ("Traceback", "BrokenPipe", "Exception"):
        assert word not in done.stderr
    assert (tmp_path / "run" / "summary.json").exists() == (flags != ["--help"])


def test_a_library_that_is_missing_is_named_in_one_line(tmp_path: Path):
    """The installation is by `pip install --no-deps`, for users of only the losses."""
    (tmp_path / "absl.py").write_text("raise ModuleNotFoundError(name='absl')\n")
    done = run_python("-m", "aevb", "run", env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: aevb run needs absl")


@pytest.mark.parametrize("resumes", [True, False])
def test_a_command_can_be_stopped_before_it_is_imported(
    resumes: bool, monkeypatch: pytest.MonkeyPatch
):
    told: list[object] = []

    def load(name: str) -> SimpleNamespace:
        told.append(name)
        return SimpleNamespace(main=lambda arguments: told.append((arguments, sys.argv)) or 7)

    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(main.signals, "exit_at_once", lambda **how: told.append(how))
    monkeypatch.setattr(main.importlib, "import_module", load)
    monkeypatch.setitem(COMMANDS, "do", Command("a.module", "", resumes=resumes))
    assert main.main(["do", "--this"]) == 7
    assert told == [{"resumes": resumes}, "a.module", (["--this"], ["aevb do", "--this"])]


@pytest.mark.parametrize(("resumes", "then"), [(True, "resumes"), (False, "starts again")])
def test_the_message_of_a_signal_states_what_the_same_command_will_do(resumes: bool, then: str):
    done = run_python(
        "-c",
        "import signal; from aevb.runtime import signals\n"
        f"signals.exit_at_once(resumes={resumes}); signal.raise_signal(signal.SIGTERM)",
    )
    assert done.returncode == 128 + 15
    assert f"stopped by SIGTERM; the same command {then}" in done.stderr


def test_a_signal_during_interpreter_shutdown_does_not_change_the_exit_status():
    """The signals come while Python finalizes, which takes some time after a long run."""
    done = run_python(
        "-c",
        "import signal, sys; from aevb.runtime import signals\n"
        "class Last:\n"
        "    def __del__(self, send=signal.raise_signal, numbers=(\n"
        "        signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)):\n"
        "        for number in numbers: send(number)\n"
        "signals.exit_at_once(); last = Last(); sys.exit(3)",
    )
    assert (done.returncode, done.stderr) == (3, "")


# The version


def test_the_package_and_the_command_report_the_version_of_pyproject():
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    assert aevb.__version__ == VERSION, "install the package anew"
    assert python("-m", "aevb", "--version") == f"aevb {VERSION}\n"


def test_the_changelog_begins_with_this_version():
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0].partition(",")[0] == VERSION
    versions = [tuple(map(int, heading.partition(",")[0].split("."))) for heading in headings]
    assert versions == sorted(set(versions), reverse=True)


# Experiments by name


def test_every_experiment_is_in_the_package_as_a_link_to_its_file():
    assert experiments.names() == [file.stem for file in FILES]
    for file in FILES:
        assert (experiments.FOLDER / file.name).samefile(file)


@pytest.mark.parametrize("arguments", [["--config=mnist"], ["--config", "mnist"]])
def test_the_name_of_an_experiment_selects_its_file(arguments: list[str]):
    found = program("-m", "aevb", "run", *arguments, "--help")
    assert "--config.data.name='mnist'" in found
    assert found == program(
        "-m", "aevb", "run", f"--config={experiments.FOLDER}/mnist.py", "--help"
    )


def test_a_run_without_a_config_is_of_the_frey_faces():
    found = program("-m", "aevb", "run", "--config.seed=3", "--help")
    named = program("-m", "aevb", "run", "--config=frey_faces", "--config.seed=3", "--help")
    assert found == named
    assert "--config.seed=3" in found
