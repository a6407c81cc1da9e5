"""The files of a run: whole lines, whole files, and no duplicates."""

import contextlib
import json
import os
import sys
import termios
import threading
from pathlib import Path

import pytest
from programs import run_program

from aevb.storage.metrics_log import (
    MetricsLog,
    curve,
    progress_bar,
    read_records,
    read_with_digest,
    reporter,
    write_json,
    write_with_digest,
)

RECORDS = [
    {"examples": 100 * i, "train_bound": -5.0 - i, "test_bound": -6.0 - i} for i in (1, 2, 3)
]


def written(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_log_is_a_json_object_a_line(tmp_path: Path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for record in RECORDS:
        log.append(record)
        assert written(tmp_path / "metrics.jsonl")[-1] == record
    assert written(tmp_path / "metrics.jsonl") == log.records == RECORDS


@pytest.mark.parametrize("known", [0, 1, 3])
def test_a_resumed_log_starts_with_exactly_the_records_of_the_checkpoint(
    known: int, tmp_path: Path
):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"examples": 7}\n' + "garbage")
    log = MetricsLog(path, RECORDS[:known])
    assert log.records == written(path) == RECORDS[:known]
    log.append({"examples": 5000})
    assert written(path) == [*RECORDS[:known], {"examples": 5000}]


@pytest.mark.parametrize("length", [1, 20, -2])
def test_an_incomplete_last_line_of_the_log_is_dropped(length: int, tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\n" + json.dumps(RECORDS[1])[:length])
    assert read_records(path) == RECORDS[:1]


def test_a_missing_log_has_no_records(tmp_path: Path):
    assert read_records(tmp_path / "none.jsonl") == []


CONTENT = {"seed": 1, "bounds": [0.1, -3.5e-7], "tuple": (1, 2), "name": "Φ"}


def test_a_checksummed_file_is_read_as_it_was_written(tmp_path: Path):
    write_with_digest(tmp_path / "summary.json", CONTENT)
    assert read_with_digest(tmp_path / "summary.json") == CONTENT | {"tuple": [1, 2]}
    write_json(tmp_path / "plain.json", CONTENT)
    with pytest.raises(ValueError, match="digest"):
        read_with_digest(tmp_path / "plain.json")


@pytest.mark.parametrize("position", range(0, 100, 3))
def test_a_flipped_bit_of_a_checksummed_file_is_detected(position: int, tmp_path: Path):
    path = tmp_path / "summary.json"
    write_with_digest(path, CONTENT)
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << (position % 8)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"."):  # the digest, or what json or UTF-8 finds wrong
        read_with_digest(path)


def test_a_file_that_is_not_a_json_object_is_refused(tmp_path: Path):
    (tmp_path / "summary.json").write_text("[1]")
    with pytest.raises(ValueError, match="no JSON object"):
        read_with_digest(tmp_path / "summary.json")


def test_a_json_file_is_replaced_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "summary.json"
    write_json(path, {"bound": -1.0})

    def disk_is_full(file_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"bound": -2.0})
    assert json.loads(path.read_text()) == {"bound": -1.0}


def test_a_curve_has_the_columns_of_the_log():
    assert curve(RECORDS) == {
        "examples": [100, 200, 300],
        "train_bound": [-6.0, -7.0, -8.0],
        "test_bound": [-7.0, -8.0, -9.0],
    }


def in_a_file(monkeypatch: pytest.MonkeyPatch, path: Path, *seconds: float) -> list[str]:
    """Returns the lines of a bar of 6 million examples, advanced by 50,000 at these times."""
    clock = [0.0]
    with path.open("w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        patch.setattr("tqdm.std.time", lambda: clock[0])
        with progress_bar(6_000_000, 0) as bar:
            report = reporter(bar)
            for second in seconds:
                clock[0] = second
                report(50_000, 1234.54)
    content = path.read_bytes()
    assert_whole_lines(content)
    return content.decode().splitlines()


def assert_whole_lines(content: bytes) -> None:
    """Checks that no line is empty or has control characters."""
    assert not [byte for byte in content if byte < 0x20 and byte != ord("\n")]
    assert content.isascii()
    assert content.endswith(b"\n")
    assert b"\n\n" not in content
    assert not content.startswith(b"\n")


def test_a_progress_bar_in_a_file_is_a_line_each_half_minute_and_one_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lines = in_a_file(monkeypatch, tmp_path / "log", *range(10, 80, 10))
    assert lines == [
        "  2%  150k/6.00M examples, 5.00k examples/s, 19:30 left, objective 1234.5",
        "  5%  300k/6.00M examples, 5.00k examples/s, 19:00 left, objective 1234.5",
        "  6%  350k/6.00M examples, 5.00k examples/s, 18:50 left, objective 1234.5",
    ]


def test_a_progress_bar_in_a_file_of_a_short_run_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (line,) = in_a_file(monkeypatch, tmp_path / "log", 1, 2)
    assert line == "  2%  100k/6.00M examples, 50.0k examples/s, 01:58 left, objective 1234.5"
    (line,) = in_a_file(monkeypatch, tmp_path / "log")
    assert line.startswith("  0%  0.00/6.00M examples, ")


def test_two_progress_bars_in_a_file_write_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with (tmp_path / "log").open("w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with progress_bar(10, 0), progress_bar(10, 5, "datapoints") as inner:
            inner.update(5)
        monkeypatch.undo()
    content = (tmp_path / "log").read_bytes()
    assert_whole_lines(content)
    first, second = content.decode().splitlines()
    assert first.startswith("100%  10.0/10.0 datapoints, ")
    assert second.startswith("  0%  0.00/10.0 examples, ")


@pytest.mark.slow
def test_a_run_whose_errors_go_to_a_file_leaves_whole_lines_in_it(tmp_path: Path):
    done = run_program(
        "experiments/run.py", "--config=tests/support/small_run.py", f"--workdir={tmp_path / 'run'}"
    )
    assert_whole_lines(done.stderr.encode())
    assert done.stderr.splitlines()[0].startswith("100%  20.0k/20.0k examples, ")


def test_a_progress_bar_on_a_terminal_is_drawn_over_itself(monkeypatch: pytest.MonkeyPatch):
    reader, writer = os.openpty()
    termios.tcsetwinsize(writer, (24, 100))
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress_bar(400, 0) as bar:
            reporter(bar)(400, 1.0)
        monkeypatch.undo()
    written = b""
    with contextlib.suppress(OSError):  # the terminal ends when its writer is closed
        while part := os.read(reader, 10_000):
            written += part
    os.close(reader)
    first, second = written.decode().rstrip().split("\r")[1:]
    assert first.startswith("  0% |")
    assert second.startswith(f"100% |{'█' * 20}| 400/400 ")


def test_a_progress_bar_that_is_not_shown_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with (tmp_path / "log").open("w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with progress_bar(10, 0, is_shown=False) as bar:
            reporter(bar)(5, 1.0)
        monkeypatch.undo()
    assert (tmp_path / "log").read_text() == ""


def test_a_progress_bar_continues_after_its_output_is_closed(monkeypatch: pytest.MonkeyPatch):
    """The terminal is closed, and the lock that a sweep's threads share must stay free."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        bar = progress_bar(100, 0)
        bar.refresh()
        monkeypatch.undo()
        taken: list[bool] = []

        def ask() -> None:
            with bar.get_lock():
                taken.append(True)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(timeout=120.0)
        assert taken == [True]
        bar.disable = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)  # for output not yet flushed
