"""What a run writes: whole lines, whole files, and nothing twice."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from aevb.metrics import MetricsLog, TensorBoard, curve, read_records, write_json

RECORDS = [
    {"examples": 100 * i, "train_bound": -5.0 - i, "test_bound": -6.0 - i} for i in (1, 2, 3)
]


def written(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_log_is_a_json_object_a_line(tmp_path: Path):
    log = MetricsLog(tmp_path / "metrics.jsonl", keep_until=0)
    for record in RECORDS:
        log.append(record)
        assert written(tmp_path / "metrics.jsonl")[-1] == record
    assert written(tmp_path / "metrics.jsonl") == log.records == RECORDS


@pytest.mark.parametrize(("keep_until", "kept"), [(0, 0), (100, 1), (250, 2), (1000, 3)])
def test_a_resumed_log_is_cut_back_to_the_checkpoint(keep_until: int, kept: int, tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    log = MetricsLog(path, keep_until=keep_until)
    assert log.records == written(path) == RECORDS[:kept]
    log.append({"examples": 5000})
    assert written(path) == [*RECORDS[:kept], {"examples": 5000}]


@pytest.mark.parametrize("length", [1, 20, -2])
def test_a_line_that_a_crash_cut_off_is_dropped(length: int, tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\n" + json.dumps(RECORDS[1])[:length])
    assert read_records(path) == RECORDS[:1]
    log = MetricsLog(path, keep_until=10_000)
    log.append(RECORDS[2])
    assert written(path) == [RECORDS[0], RECORDS[2]]


def test_no_log_is_an_empty_one(tmp_path: Path):
    assert read_records(tmp_path / "none.jsonl") == []


def test_a_json_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "summary.json"
    write_json(path, {"bound": -1.0})

    def disk_is_full(file_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"bound": -2.0})
    assert json.loads(path.read_text()) == {"bound": -1.0}


def test_a_curve_is_the_log_by_column():
    assert curve(RECORDS) == {
        "examples": [100, 200, 300],
        "train_bound": [-6.0, -7.0, -8.0],
        "test_bound": [-7.0, -8.0, -9.0],
    }


def events(folder: Path) -> list[tuple[int, str, float]]:
    """(step, name, value) of every scalar in the event files of a folder."""
    from tensorboardX.proto import event_pb2

    messages: Any = event_pb2  # its classes are made at run time
    found = []
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        while content:  # a length of 8 bytes and its checksum of 4, the event, another checksum
            (length,) = struct.unpack_from("<Q", content)
            event = messages.Event.FromString(content[12 : 12 + length])
            values = event.summary.value
            found += [(event.step, value.tag, value.simple_value) for value in values]
            content = content[16 + length :]
    return found


def test_tensorboard_has_the_log_once_however_often_a_run_is_resumed(tmp_path: Path):
    board = TensorBoard(tmp_path / "tensorboard", [])
    for record in RECORDS:
        board.append(record)
    board.writer.close()
    board = TensorBoard(tmp_path / "tensorboard", RECORDS[:2])  # resumed before the last of them
    board.append(RECORDS[2])
    board.writer.close()
    assert sorted(events(tmp_path / "tensorboard")) == sorted(
        (record["examples"], name, record[name])
        for record in RECORDS
        for name in ("train_bound", "test_bound")
    )
