"""Datapoints in shards on disk: an index reads what was written, or reports the damage."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from refusals import refusal

from aevb.data.io import array_records
from aevb.data.io.array_records import INFO, Records

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (100, 12), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a folder of 100 datapoints in shards of at most 30."""
    monkeypatch.setattr(array_records, "SHARD_BYTES", 30 * PIXELS.shape[1])
    array_records.write(tmp_path / "pixels", [PIXELS[:70], PIXELS[70:]])
    return tmp_path / "pixels"


@pytest.mark.parametrize(
    "index",
    [
        np.arange(100),
        np.array([99, 0, 29, 30, 69, 70, 5, 5]),
        slice(25, 75, 7),
        slice(None),
        np.zeros(0, np.int64),
    ],
    ids=["all", "across shards, one of them twice", "a slice", "everything", "none"],
)
def test_records_are_indexed_as_an_array_is(folder: Path, index: np.ndarray | slice):
    found = Records(folder)
    np.testing.assert_array_equal(found[index], PIXELS[index])
    assert found[index].dtype == np.uint8
    assert (len(found), found.shape, found.nbytes) == (100, (100, 12), PIXELS.nbytes)


def test_records_are_written_in_shards(folder: Path):
    assert len(list(folder.glob("*.array_record"))) == 4  # 30, 30 and 10 of the first block


def test_real_numbers_keep_every_bit(tmp_path: Path):
    real = RNG.normal(size=(50, 3)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(array_records.write(tmp_path / "real", [real])), real)


def test_blocks_of_another_width_or_type_are_refused_and_leave_no_file(tmp_path: Path):
    for other in (PIXELS[:, :5], PIXELS.astype(np.float32)):
        with pytest.raises(ValueError, match="the first one D = 12 and type uint8"):
            array_records.write(tmp_path / "pixels", [PIXELS, other])
    with pytest.raises(ValueError, match="no datapoint"):
        array_records.write(tmp_path / "pixels", [])
    assert not list(tmp_path.iterdir())


def test_a_second_writer_keeps_the_records_of_the_first(folder: Path):
    array_records.write(folder, [PIXELS])
    np.testing.assert_array_equal(Records(folder)[:], PIXELS)
    assert [path.name for path in folder.parent.iterdir()] == ["pixels"]


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.array_record"))


DAMAGES = {
    "a shard is gone": lambda folder: shards(folder)[1].unlink(),
    "a shard is cut off": lambda folder: os.truncate(shards(folder)[2], 50),
    "a bit of a pixel": lambda folder: flip(
        shards(folder)[0], shards(folder)[0].stat().st_size // 2
    ),
    "two shards are swapped": lambda folder: shards(folder)[3].replace(shards(folder)[0]),
    "no information": lambda folder: (folder / INFO).unlink(),
    "information is no JSON": lambda folder: (folder / INFO).write_text("{"),
    "information about others": lambda folder: (folder / INFO).write_text(
        json.dumps({**json.loads((folder / INFO).read_text()), "dtype": "int8"})
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_records_are_refused_in_one_line_that_names_the_remedy(folder: Path, damage: str):
    DAMAGES[damage](folder)
    line = refusal(lambda: Records(folder)[:])
    assert str(folder) in line
    assert "delete this folder" in line
