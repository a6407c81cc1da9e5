"""The benchmark of an accelerator: its cells, its limits, and a run that continues another."""

import contextlib
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from programs import ROOT, modules_of, run_python, start_python, wait_for

from aevb.errors import UserError
from aevb.experiment import build

BENCHMARKS = ROOT / "experiments" / "benchmarks"
PEERS = ROOT / ".venv-bench" / "bin" / "python"
HOW = {"seconds": 0.0, "rounds": 3}
ABOUT = {
    "command": "c", "date": "d", "device": {"platform": "gpu", "kind": "A"},
    "machine": {"cores": 2}, "versions": {"jax": "1"}, "torch": "", "quick": False,
    "load_of_others": None,
}  # fmt: skip


@pytest.fixture
def program() -> Iterator[Any]:
    """Yields a function that imports a benchmark's module; the module imports its neighbors."""
    with modules_of(BENCHMARKS):
        yield importlib.import_module


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with files of random images in the format of binarized MNIST."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "binarized_mnist").mkdir()
    rng = np.random.default_rng(0)
    for name, number in (("train", 200), ("test", 20)):
        bits = rng.integers(0, 256, (number, 98), dtype=np.uint8)
        np.savez(folder / "binarized_mnist" / f"{name}.npz", packed_images=bits)
    return folder


# The cells


def test_a_step_of_the_convolutions_has_the_products_of_each_weight_at_each_position(program: Any):
    """Each weight of a convolution is used once per pixel of the smaller of its two images."""
    cells, worker = program("accelerator_cells"), program("accelerator_worker")
    blank = np.zeros((100, 784), np.uint8)
    dataset = worker.Dataset(
        "blank", blank, blank, "binary", worker.preprocessing.unchanged, (28, 28), None
    )
    values = worker.values_of((4, 8), 100, network="conv")
    shapes = jax.eval_shape(build(values, dataset).vae.init, jax.random.key(0))
    positions = {
        ("encoder", "hidden_0"): 14**2, ("encoder", "hidden_1"): 7**2,
        ("decoder", "hidden_1"): 7**2, ("decoder", "logits"): 14**2,
    }  # fmt: skip
    products = {
        (part, layer): leaves["kernel"].size * positions.get((part, layer), 1)
        for part in ("encoder", "decoder")
        for layer, leaves in shapes[part].items()
    }
    assert len(products) == 7
    expected = 2 * (3 * sum(products.values()) - products["encoder", "hidden_0"])
    assert cells.conv_flops((4, 8)) == expected


def test_the_small_form_has_every_cell_of_the_full_form(program: Any):
    cells = program("accelerator_cells")
    full, quick = cells.cells(cells.FULL), cells.cells(cells.QUICK)
    assert len({cell.name for cell in full}) == len(full)
    for group in cells.GROUPS:
        kinds = [
            {(c.request["kind"], *map(c.about.get, ("network", "precision", "way"))) for c in each
             if c.group == group}
            for each in (full, quick)
        ]  # fmt: skip
        assert kinds[0] == kinds[1] != set()
    assert [c.about["members"] for c in full if c.group == "stacks"] == [2**n for n in range(9)]
    [sweep] = [cell for cell in full if cell.group == "sweep"]
    assert len(sweep.about["latents"]) * sweep.about["seeds"] == 15
    assert sweep.seconds <= 300.0


class Clock:
    """A clock that replaces the module `time` of worker.py, and advances only by `sleep`."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_rate_is_of_rounds_of_the_wanted_length_without_the_warm_up(
    program: Any, monkeypatch: pytest.MonkeyPatch
):
    clock, taken = Clock(), []
    monkeypatch.setattr(program("worker"), "time", clock)

    def take(number: int) -> float:
        clock.sleep(0.01 * number + (5.0 if not taken else 0.0))  # the first compiles
        taken.append(number)
        return -1.0

    found = program("cell_worker").rates(take, 100, seconds=0.5, rounds=4)
    assert found["steps_a_round"] == 50
    np.testing.assert_allclose(found["rates"], [1e4] * 4)
    assert taken[-4:] == [50] * 4


def test_a_rate_of_training_that_diverged_is_refused(program: Any):
    with pytest.raises(ValueError, match="objective is nan"):
        program("cell_worker").rates(lambda number: float("nan"), 1, seconds=0.0, rounds=1)


def test_a_single_run_is_measured(program: Any, images: Path):
    measures = program("accelerator_worker").Measures(images)
    work = {"network": "mlp", "hidden": [3], "batch_size": 10, "precision": "float32"}
    found = measures.single(**work, **HOW)
    assert len(found["rates"]) == 3
    assert min(found["rates"]) > 0.0


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize(
    ("precision", "products"),
    [
        ("float32", {("float32", "HIGHEST")}),
        ("tensorfloat32", {("float32", "HIGH")}),
        ("bfloat16", {("bfloat16", "DEFAULT")}),
    ],
)
def test_the_products_of_a_cell_have_its_precision(
    program: Any,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    network: str,
    precision: str,
    products: set[tuple[str, str]],
):
    worker = program("accelerator_worker")
    texts = []

    def compile_(self: Any, keys: Any, data: Any, state: Any) -> Any:
        arguments = (keys, data, state, worker.loop.no_order(keys, data), np.int32(0))
        texts.append(self.advance.lower(*arguments).as_text())
        raise StopIteration

    monkeypatch.setattr(worker.loop.AheadOfTime, "compile", compile_)
    work = {"network": network, "hidden": [2, 3][: 1 + (network == "conv")], "batch_size": 10}
    with pytest.raises(StopIteration):
        worker.Measures(images).single(**work, precision=precision, **HOW)
    lines = [line for line in texts[0].splitlines() if "stablehlo.dot_general" in line]
    assert lines
    found = {
        ("bfloat16" if "bf16" in line else "float32", name)
        for line in lines
        for name in ("HIGHEST", "HIGH", "DEFAULT")
        if f"[{name}, {name}]" in line or (name == "DEFAULT" and "precision" not in line)
    }
    assert found == products


@pytest.mark.slow
def test_stacks_a_sweep_and_log_p_are_measured(program: Any, images: Path):
    measures = program("accelerator_worker").Measures(images)
    model = {"hidden": [3], "batch_size": 10}
    for members in (1, 2):
        assert min(measures.stack(**model, members=members, **HOW)["rates"]) > 0.0
    work = {"hidden": [3], "num_samples": 20, "images": 2}
    assert min(measures.importance(**work, **HOW)["rates"]) > 0.0
    sweep = measures.sweep(**model, latents=[2, 3], seeds=2, budget=0.0, rounds=3)
    assert sweep["members"] == 4
    assert sweep["examples_a_member"] == 10 * (1 + 1 + 1 + 3)  # steps before and in the rounds
    assert set(sweep["test_bound"]) == {"2", "3"}
    assert all(-2000 < bound < -300 for bound in sweep["test_bound"].values())
    each = np.median(sweep["rates"]) / 4
    assert sweep["extrapolated"]["hours"] == pytest.approx(1e8 / each / 3600)


def test_a_worker_answers_a_failed_cell_with_one_line(
    program: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    cell_worker = program("cell_worker")

    def fails(size: int) -> dict[str, Any]:
        raise MemoryError(f"no room for {size}\nmore")

    monkeypatch.setattr(sys, "stdin", ['{"kind": "a", "size": 3}\n', '{"kind": "b"}\n'])
    monkeypatch.setattr(cell_worker, "_end_with", lambda parent: None)
    cell_worker.serve(("numpy",), {"a": fails, "b": lambda: {"rates": [1.0]}}, device="d")
    ready, failed, sound = map(json.loads, capsys.readouterr().out.splitlines())
    assert ready["device"] == "d"
    assert failed == {"error": "MemoryError: no room for 3"}
    assert sound == {"rates": [1.0]}


# The run


class Asked:
    """Workers that answer at once, except that some cells fail."""

    def __init__(self, failing: Mapping[str, BaseException]):
        self.failing, self.names = failing, []

    def __call__(self, cell: Any, seconds: float) -> dict[str, Any]:
        self.names.append(cell.name)
        if cell.name in self.failing:
            raise self.failing[cell.name]
        return {"rates": [1.0, 2.0, 4.0]}


def run(program: Any, path: Path, asked: Asked, seconds: float = 1e9) -> dict[str, Any]:
    """Runs the cells a, b, c, d with a file of results; returns what the file has then."""
    accelerator, cells = program("accelerator"), program("accelerator_cells")
    todo = [
        cells.Cell(name, "single", {}, {"batch_size": 7}, 1e12, seconds=50.0, least=10.0)
        for name in "abcd"
    ]
    report = accelerator.opened(path, ABOUT)
    with contextlib.suppress(KeyboardInterrupt):
        accelerator.run(
            todo,
            report,
            ask=asked,
            time_left=lambda: seconds,
            save=lambda: accelerator.write_json(path, report),
        )
    return json.loads(path.read_text())


def test_a_stopped_run_is_continued_without_a_finished_cell_measured_again(
    program: Any, tmp_path: Path
):
    path = tmp_path / "a.json"
    first = Asked({"c": KeyboardInterrupt()})
    before = run(program, path, first)["cells"]
    assert first.names == ["a", "b", "c"]
    assert list(before) == ["a", "b"]
    second = Asked({})
    after = run(program, path, second)["cells"]
    assert second.names == ["c", "d"]
    assert {name: after[name] for name in before} == before
    assert after["d"]["examples_per_second"] == {"median": 2.0, "min": 1.0, "max": 4.0}
    assert after["d"]["tflop_per_second"] == pytest.approx(2.0)
    assert after["d"]["batch_size"] == 7


def test_a_cell_that_fails_is_recorded_and_does_not_end_the_run(program: Any, tmp_path: Path):
    accelerator = program("accelerator")
    failing = {"b": accelerator.WorkerError("no room"), "c": accelerator.TimeoutWorkerError("slow")}
    asked = Asked(failing)
    cells = run(program, tmp_path / "a.json", asked)["cells"]
    assert asked.names == list("abcd")
    assert [name for name in cells if "error" in cells[name]] == ["b", "c"]
    assert cells["b"]["error"] == "no room"
    again = Asked({})
    assert run(program, tmp_path / "a.json", again)["cells"] == cells
    assert again.names == []


@pytest.mark.parametrize(("seconds", "asked"), [(9.0, []), (49.0, list("abcd"))])
def test_a_cell_without_enough_time_is_named_and_measured_by_the_next_run(
    program: Any, tmp_path: Path, seconds: float, asked: list[str]
):
    """With 9 s no cell is begun. With 49 s each is ended before the 50 s that it may take."""
    timeout: BaseException = program("accelerator").TimeoutWorkerError("no answer")
    first = Asked(dict.fromkeys("abcd", timeout))
    report = run(program, tmp_path / "a.json", first, seconds)
    assert first.names == asked
    assert report["cells"] == {}
    assert list(report["not_measured"]) == list("abcd")
    report = run(program, tmp_path / "a.json", Asked({}))
    assert list(report["cells"]) == list("abcd")
    assert report["not_measured"] == {}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"device": {"platform": "gpu", "kind": "B"}}, "device.kind is 'A', and now it is 'B'"),
        ({"versions": {"jax": "2"}}, "versions.jax is '1', and now it is '2'"),
        ({"machine": {"cores": 4}}, "machine.cores is 2, and now it is 4"),
        ({"quick": True}, "quick is False, and now it is True"),
        ({"torch": "2"}, "torch is '1', and now it is '2'"),
    ],
)
def test_results_of_another_device_version_or_form_are_refused_and_left_as_they_are(
    program: Any, tmp_path: Path, other: dict[str, Any], words: str
):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**ABOUT, "torch": "1", "cells": {}, "not_measured": {}}))
    before = path.read_bytes()
    with pytest.raises(UserError, match=words) as refused:
        program("accelerator").opened(path, {**ABOUT, **other})
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == before


def test_results_without_pytorch_can_be_continued_with_it(program: Any, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**ABOUT, "cells": {}, "not_measured": {}}))
    opened = program("accelerator").opened
    assert opened(path, {**ABOUT, "torch": "2"})["torch"] == "2"
    path.write_text(json.dumps({**ABOUT, "torch": "2", "cells": {}, "not_measured": {}}))
    assert opened(path, ABOUT)["torch"] == "2"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"device": 1}'])
def test_a_damaged_results_file_is_refused(program: Any, tmp_path: Path, content: str):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"no results file.*delete it"):
        program("accelerator").opened(path, ABOUT)
    assert path.read_text() == content


def test_a_cpu_is_refused_except_in_the_small_form(program: Any, tmp_path: Path):
    accelerator, output = program("accelerator"), tmp_path / "a" / "b.json"
    flags = {"output": output, "quick": False}
    with pytest.raises(UserError, match=r"no accelerator.*jax\[cuda13\].*--quick"):
        accelerator.results_file(accelerator.argparse.Namespace(**flags), "cpu")
    assert not output.parent.exists()
    assert accelerator.results_file(accelerator.argparse.Namespace(**flags), "gpu") == output


def test_a_worker_that_ends_or_does_not_answer_fails_its_cell_only(program: Any):
    accelerator, cells = program("accelerator"), program("accelerator_cells")
    silent = (
        "import sys\n"
        "print('{}', flush=True)\n"
        "for line in sys.stdin:\n"
        "    if 'end' in line: sys.exit(3)\n"
        "    if 'answer' in line: print('{\"rates\": [1.0]}', flush=True)\n"
    )
    workers = accelerator.Workers({"aevb": [sys.executable, "-c", silent]})

    def cell(kind: str) -> Any:
        return cells.Cell("a", "single", {"kind": kind}, {}, 1.0)

    try:
        with pytest.raises(accelerator.WorkerError, match="ended with status 3"):
            workers.ask(cell("end"), 60.0)
        assert workers.ask(cell("answer"), 60.0) == {"rates": [1.0]}
        with pytest.raises(accelerator.TimeoutWorkerError, match="no answer"):
            workers.ask(cell("none"), 1.0)
    finally:
        workers.close()


def test_pytorch_is_left_out_where_it_cannot_use_the_device(program: Any, tmp_path: Path):
    peer, stand_in = program("accelerator").peer, tmp_path / "python"
    assert peer(stand_in, "tpu") == ("", "PyTorch is not measured on a tpu")
    assert "make .venv-bench/peers" in peer(stand_in, "gpu")[1]
    stand_in.write_text("#!/bin/sh\necho 2.0 \n")
    stand_in.chmod(0o755)
    assert peer(stand_in, "gpu") == ("2.0", "PyTorch 2.0 finds no GPU")
    assert peer(stand_in, "cpu") == ("2.0", "")
    stand_in.write_text("#!/bin/sh\necho 2.0 A GPU\n")
    assert peer(stand_in, "gpu") == ("2.0", "")


# The program


@pytest.mark.slow
def test_a_killed_benchmark_continues_and_refuses_the_results_of_another_device(
    images: Path, tmp_path: Path
):
    output = tmp_path / "a.json"
    command = [
        BENCHMARKS / "accelerator.py", f"--data-dir={images}", "--quick", "--only=stacks",
        f"--output={output}", "--bench-python=none",
    ]  # fmt: skip
    process = start_python(*command)
    wait_for(lambda: output.exists() and json.loads(output.read_text())["cells"], process)
    process.kill()
    process.communicate()
    before = json.loads(output.read_text())["cells"]
    done = run_python(*command)
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert list(report["cells"]) == ["stack S=1", "stack S=2", "stack S=3"]
    assert {name: report["cells"][name] for name in before} == before
    assert not any("error" in each for each in report["cells"].values())
    report["device"]["kind"] = "another"
    output.write_text(json.dumps(report))
    done = run_python(*command)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "device.kind is 'another', and now it is 'cpu'" in line
    assert "Traceback" not in done.stderr
    assert json.loads(output.read_text()) == report


@pytest.mark.slow
def test_a_worker_ends_with_its_parent(images: Path):
    code = (
        "import subprocess, sys\n"
        f"command = [sys.executable, {str(BENCHMARKS / 'accelerator_worker.py')!r}]\n"
        f"command += ['--data-dir={images}']\n"
        "child = subprocess.Popen(command, stdin=sys.stdin, stdout=subprocess.PIPE, text=True)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.readline()\n"
    )
    parent = start_python("-c", code)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60.0

    def has_ended() -> bool:
        stat = Path(f"/proc/{child}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"

    while not has_ended() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert has_ended()  # although its stdin is still open


@pytest.mark.slow
@pytest.mark.skipif(not PEERS.exists(), reason="needs PyTorch in .venv-bench")
def test_the_models_of_pytorch_are_measured(images: Path):
    model = {"kind": "single", "batch_size": 10, "precision": "float32", "way": "eager", **HOW}
    requests = [
        {**model, "network": "mlp", "hidden": [3]},
        {**model, "network": "conv", "hidden": [2, 3], "precision": "bfloat16"},
    ]
    done = subprocess.run(
        [PEERS, BENCHMARKS / "torch_accelerator_worker.py", f"--data-dir={images}"],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    _, *answers = map(json.loads, done.stdout.splitlines())
    assert [len(answer["rates"]) for answer in answers] == [3, 3]
