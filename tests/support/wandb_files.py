"""A reader of the files that Weights & Biases writes; its Python library has none."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 2**15, 7  # of a log in LevelDB's format; the file has a header of 7 bytes, too
WHOLE, FIRST, LAST = 1, 2, 4  # kinds of parts; a part between the first and the last has kind 3


def messages(folder: Path) -> list[Any]:
    """Returns the messages of the run in a folder, in their order."""
    from wandb.proto import wandb_internal_pb2

    records: Any = wandb_internal_pb2  # its classes are created at run time
    files = sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda it: it.stat().st_mtime_ns)
    assert len({file.name for file in files}) == 1  # a single run, for any number of files
    return [records.Record.FromString(each) for file in files for each in _contents(file)]


def logged(folder: Path) -> list[dict[str, Any]]:
    """Returns the run's records without their pictures; each step equals its count of examples."""
    found = []
    for message in messages(folder):
        if message.HasField("history"):
            items = message.history.item
            record = {"/".join(item.nested_key): json.loads(item.value_json) for item in items}
            assert message.history.step.num == record["examples"]
            found.append({k: v for k, v in record.items() if "/" not in k and k[0] != "_"})
    return found


def pictures(folder: Path) -> dict[tuple[str, int], Path]:
    """Returns the files of the run's pictures by name and step."""
    found = {}
    for message in messages(folder):
        for item in message.history.item:
            name, *rest = item.nested_key
            if rest == ["path"]:
                (file,) = folder.glob(f"wandb/*/files/{json.loads(item.value_json)}")
                found[name, message.history.step.num] = file
    return found


def _contents(path: Path) -> Iterator[bytes]:
    """Yields the complete messages of a file.

    Blocks hold parts of messages. Each part follows a checksum of 4 bytes, a length of 2 bytes and
    a kind of 1 byte.
    """
    file, position, begun = path.read_bytes(), HEADER, b""
    while position + HEADER <= len(file):
        if BLOCK - position % BLOCK < HEADER:  # zero padding up to the next block
            position += BLOCK - position % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", file, position + 4)
        begin, position = position + HEADER, position + HEADER + length
        if position > len(file) or kind == 0:
            return
        begun = file[begin:position] if kind in (WHOLE, FIRST) else begun + file[begin:position]
        if kind in (WHOLE, LAST):
            yield begun
