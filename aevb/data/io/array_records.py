"""Datapoints that stay on disk, in shards of array_record with random access.

A record is the bytes of one datapoint. A folder of shards is written once and gets its name when it
is complete. Its `records.json` describes the contents. Every chunk of a shard has a checksum, which
is verified on reading.
"""

import copy
import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aevb.errors import UserError
from aevb.runtime.checksums import is_sound, with_digest

INFO = "records.json"
SHARD_BYTES = 2**28  # most bytes of datapoints in a shard
OPTIONS = "group_size:1,uncompressed"  # so that single records can be read


class Records:
    """An array [N, D] on disk; indexing reads the datapoints that are asked for."""

    def __init__(self, folder: Path):
        """Opens a folder that `write` has made.

        Raises:
            UserError: the folder is damaged.
        """
        self.folder = folder
        info = _read_info(folder)
        self.shape: tuple[int, int] = tuple(info["shape"])
        self.dtype = np.dtype(info["dtype"])
        self._starts = np.cumsum([0, *(shard["records"] for shard in info["shards"])])
        self._files = [folder / shard["file"] for shard in info["shards"]]
        for file, shard in zip(self._files, info["shards"], strict=True):
            if not file.is_file() or file.stat().st_size != shard["bytes"]:
                raise _damaged(folder, f"{file.name} is not as it was written")
        self._readers: dict[int, Any] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def head(self, number: int) -> "Records":
        """Returns the first `number` datapoints, still on disk."""
        part = copy.copy(self)
        part.shape = (number, self.shape[1])
        return part

    @property
    def nbytes(self) -> int:
        """Bytes of all the datapoints, once read into memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        """Reads the datapoints at `index`, whole numbers [n] or a slice, and returns them [n, D].

        Raises:
            UserError: a shard is damaged.
        """
        if isinstance(index, slice):
            index = np.arange(len(self))[index]
        index = np.asarray(index)
        found = np.empty((len(index), self.shape[1]), self.dtype)
        shards = np.searchsorted(self._starts, index, side="right") - 1
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            found[here] = self._read(int(shard), index[here] - self._starts[shard])
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads all datapoints into memory, [N, D]."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def _read(self, shard: int, positions: np.ndarray) -> np.ndarray:
        if shard not in self._readers:
            from array_record.python.array_record_module import ArrayRecordReader

            self._readers[shard] = ArrayRecordReader(str(self._files[shard]))
        try:
            records = self._readers[shard].read(positions.tolist())
            flat = np.frombuffer(b"".join(records), self.dtype)
            return flat.reshape(len(positions), self.shape[1])
        except (ValueError, RuntimeError, IndexError) as error:
            raise _damaged(self.folder, f"{self._files[shard].name}: {error}") from error


def write(folder: Path, blocks: Iterable[np.ndarray]) -> Records:
    """Writes datapoints as a folder of shards, and opens it.

    Args:
        blocks: [n, D] each, all with the same D and dtype.

    Raises:
        ValueError: there is no datapoint, or the blocks differ in D or dtype.
        OSError: the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _write_shards(temporary, blocks)
        temporary.chmod(0o775)
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process has written the same data
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Records(folder)


def _write_shards(folder: Path, blocks: Iterable[np.ndarray]) -> None:
    shards: list[dict[str, Any]] = []
    like = None
    for block in _cut(blocks):
        like = block[:0] if like is None else like
        if (block.shape[1:], block.dtype) != (like.shape[1:], like.dtype):
            raise ValueError(
                f"a block has D = {block.shape[1]} and type {block.dtype}, and the first one "
                f"D = {like.shape[1]} and type {like.dtype}"
            )
        file = folder / f"{len(shards):05d}.array_record"
        _write_shard(file, block)
        shards.append({"file": file.name, "records": len(block), "bytes": file.stat().st_size})
    if like is None:
        raise ValueError("there is no datapoint to write")
    number = sum(shard["records"] for shard in shards)
    info = {"shape": [number, like.shape[1]], "dtype": like.dtype.name, "shards": shards}
    (folder / INFO).write_text(json.dumps(with_digest(info), indent=2) + "\n", encoding="utf-8")


def _cut(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the same datapoints in blocks that fit into one shard each."""
    for block in blocks:
        most = max(1, SHARD_BYTES // (block.shape[1] * block.dtype.itemsize))
        for first in range(0, len(block), most):
            yield block[first : first + most]


def _write_shard(file: Path, block: np.ndarray) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(file), OPTIONS)
    for datapoint in block:
        writer.write(datapoint.tobytes())
    writer.close()


def _read_info(folder: Path) -> dict[str, Any]:
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{INFO}: {error}") from error
    if not isinstance(info, dict) or not is_sound(info):
        raise _damaged(folder, f"{INFO} is not as it was written")
    return info


def _damaged(folder: Path, why: str) -> UserError:
    return UserError(
        f"the records in {folder} are damaged ({why}); delete this folder, and the next run "
        "writes it again"
    )
