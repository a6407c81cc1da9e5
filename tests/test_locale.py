"""Text in any locale: files are UTF-8, and streams and paths may be ASCII alone."""

import ast
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import content_of
from PIL import Image
from programs import run_python
from refusals import refusal

from aevb import data
from aevb.cli.common import reporting_mistakes
from aevb.errors import UserError
from aevb.reports import figures
from aevb.runtime import paths
from aevb.runtime.run_lock import owned
from aevb.storage.checkpoint import open_reader
from aevb.storage.metrics_log import replace_text

ROOT = Path(__file__).parent.parent
SOURCES = [
    path
    for folder in ("aevb", "experiments", "docs")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not path.is_symlink()
]
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
IN_C = "".join(map(chr, (0xDCC3, 0xDCA9)))  # the name é in the locale C: surrogates of its bytes


def without_encoding(call: ast.Call) -> bool:
    """Returns whether a call opens text with the encoding of the locale."""
    words = ast.unparse(call)
    named = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    match call.func:
        case ast.Attribute(attr="read_text" | "write_text"):
            return "encoding" not in named
        case ast.Attribute(value=ast.Name(id="Image" | "os")):
            return False
        case ast.Name(id="open") | ast.Attribute(attr="open" | "fdopen"):
            return "encoding" not in named and "b'" not in words
        case ast.Attribute(value=ast.Name(id="subprocess")):
            return bool({"text", "universal_newlines"} & named.keys())
    return False


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_read_and_written_with_a_stated_encoding(path: Path):
    calls = [it for it in ast.walk(ast.parse(path.read_bytes())) if isinstance(it, ast.Call)]
    assert [ast.unparse(call) for call in calls if without_encoding(call)] == []


@pytest.mark.parametrize(
    ("code", "is_found"),
    [
        ("path.read_text()", True),
        ("path.write_text(words)", True),
        ("path.open('w')", True),
        ("open(path)", True),
        ("subprocess.run(words, text=True)", True),
        ("path.read_text(encoding='utf-8')", False),
        ("path.open('rb')", False),
        ("Image.open(path)", False),
        ("subprocess.run(words, encoding='utf-8')", False),
    ],
)
def test_a_missing_encoding_is_found(code: str, is_found: bool):
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    assert without_encoding(call) == is_found


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_stream_cannot_encode_is_escaped(encoding: str, monkeypatch: pytest.MonkeyPatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))

    def body() -> int:
        print(f"θ of 数据 and {IN_C}")
        return 0

    assert reporting_mistakes(body) == 0
    expected = f"θ of 数据 and {IN_C}\n".encode(encoding, "backslashreplace")
    assert written.getvalue() == expected


def test_the_name_of_a_file_is_shown_as_in_another_locale(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("ascii", "surrogateescape"))
    assert paths.shown("数据 é") == "数据 é"
    assert paths.shown(IN_C) == "é"
    assert paths.shown("\udce9") == "�"  # é as latin-1 has it


def test_text_with_surrogates_is_written_as_valid_utf_8(tmp_path: Path):
    replace_text(tmp_path / "page.html", f"é {IN_C}")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "é \\udcc3\\udca9"


@pytest.mark.parametrize("name", [IN_C, "é", "\ud800"])
def test_a_folder_that_the_locale_cannot_express_is_refused_before_it_is_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("ascii", "surrogateescape"))
    message = refusal(owned(tmp_path / name).__enter__)
    assert "LC_ALL=C.UTF-8" in message
    with pytest.raises(UserError, match="checkpoints"):
        open_reader(tmp_path / name)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_names_of_files_and_columns_may_be_of_any_script(suffix: str, tmp_path: Path):
    import pyarrow
    from pyarrow import csv, parquet

    write = {"csv": csv.write_csv, "parquet": parquet.write_table}[suffix]
    file = tmp_path / "数据 é" / f"größe.{suffix}"
    file.parent.mkdir()
    write(pyarrow.table({"größe": np.linspace(0, 1, 9), "数据": [*range(8), None]}), file)
    message = refusal(data.load, f"file:{file}")
    assert "数据 é/größe" in message
    assert "datapoint 8 (from 0), column '数据'" in message
    write(pyarrow.table({"größe": np.linspace(0, 1, 9), "数据": range(9)}), file)
    assert data.load(f"file:{file}").name == f"file:größe.{suffix}"


def test_a_title_of_any_script_and_with_dollars_is_drawn_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
):
    figure = figures.bound_curve(
        {"examples": [1, 2], "test_bound": [-2.0, -1.0]}, title="数据 $é$ $\\"
    )
    figures.save(figure, str(tmp_path / "bound.png"))
    assert (tmp_path / "bound.png").exists()
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.slow
def test_a_run_in_the_locale_c_has_the_names_that_its_files_have(tmp_path: Path):
    for name in ("é", "数据"):
        (tmp_path / "größe" / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.random.default_rng(number).integers(0, 256, (4, 4), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "größe" / name / f"{number}.png")
    run = run_python(
        "-m", "aevb", "run", f"--config.data.name=images:{tmp_path / 'größe'}",
        f"--workdir={tmp_path / 'run'}", "--config.train.num_examples=40",
        "--config.train.first_eval=20", "--config.train.batch_size=10",
        "--config.model.likelihood=discretized_logistic", "--config.model.hidden=(4,)",
        env=C_LOCALE,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    assert "images:gr\\xf6\\xdfe" in run.stdout
    content = content_of((tmp_path / "run" / "explorer.html").read_text(encoding="utf-8"))
    assert content["class_names"] == ["é", "数据"]
    assert content["title"].startswith("images:größe,")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["data"]["name"] == "images:größe"
