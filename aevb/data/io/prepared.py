"""Data sets on disk: prepared once as a TensorFlow data set, then read without TFDS.

``<data.dir>/aevb_<name>/<VERSION>/`` holds one array_record per split, whose records hold one
datapoint each and its index, and beside it ``<split>.npy``: the same images in one piece. Decoding
70,000 records and importing TFDS takes 3.5 s, reading the pieces 0.1 s. Both are checked against
the digest of the pixels, and a folder or a piece appears under its name only when it is complete.
"""

import os
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

import numpy as np

from aevb.data import Options
from aevb.data.io import sources
from aevb.data.io.sources import Part, Source
from aevb.errors import UserError

CONNECT_SECONDS = 5.0  # until the other side answers, and
PATIENCE_SECONDS = 10.0  # in all, as the look-up of a name has no timeout of its own


def load(source: Source, splits: tuple[str, ...], options: Options) -> list[np.ndarray]:
    """The images of each split, uint8 [N, D], prepared first if they are not yet.

    Raises:
        UserError: the files are neither here nor to be downloaded; a file or the prepared folder
            is damaged; the folder cannot be written.
    """
    folder = prepare(source, options)
    return [_read(source, folder, split) for split in splits]


def prepare(source: Source, options: Options) -> Path:
    """The folder of the prepared data set. Does nothing if it exists: it appears when complete."""
    directory = sources.data_dir(options)
    folder = directory / f"aevb_{source.name}" / sources.VERSION
    if os.path.isdir(folder):
        return folder
    files = {part: sources.find(source, part, options) for part in _parts(source)}
    missing = [part for part, path in files.items() if path is None]
    try:
        if missing:
            _require_network(source, missing, options)
        folder.parent.mkdir(parents=True, exist_ok=True)
        print(f"preparing {source.name} in {folder} (once, some seconds)", file=sys.stderr)
        from aevb.data.io import tfds_builder  # 0.6 s, and only the first time

        tfds_builder.write(source, directory, files, sources.how_to_bring(source, missing, options))
    except OSError as error:
        if os.path.isdir(folder):  # another process was faster, and has the same data
            return folder
        raise UserError(
            f"{source.name} cannot be prepared in {folder} ({sources.one_line(error)}); let "
            "data.dir or $TFDS_DATA_DIR name a folder that can be written and has space"
        ) from None
    return folder


def _parts(source: Source) -> list[Part]:
    return [part for features in source.splits.values() for part in features.values()]


def _require_network(source: Source, missing: list[Part], options: Options) -> None:
    """Refuses at once what TFDS would try for minutes."""
    urls = [part.download.url for part in missing if part.download]
    why = [f"no answer in {PATIENCE_SECONDS:.0f} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urls[0], timeout=CONNECT_SECONDS):
                why[0] = ""
        except Exception as error:  # whatever it is, it is the answer
            why[0] = sources.one_line(getattr(error, "reason", error))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE_SECONDS)
    if why[0]:
        raise UserError(
            f"{source.name} is not on this machine and {urls[0]} cannot be downloaded ({why[0]}); "
            + sources.how_to_bring(source, missing, options)
        )


def _read(source: Source, folder: Path, split: str) -> np.ndarray:
    """The images of one split, [N, D], from their one piece or else from the records."""
    part = source.splits[split]["image"]
    piece = folder / f"{split}.npy"
    try:
        if piece.exists():
            images = np.load(piece, allow_pickle=False)
        else:
            from aevb.data.io import tfds_builder

            images = tfds_builder.read(source, folder.parent.parent, split)
    except (ImportError, MemoryError):
        raise
    except PermissionError as error:
        raise UserError(
            f"the prepared data of {source.name} in {folder} cannot be read "
            f"({sources.one_line(error)}); ask their owner for leave, or name another data.dir"
        ) from None
    except Exception as error:  # array_record and numpy raise many kinds for damaged files
        raise _damaged(source, folder, sources.one_line(error)) from None
    if images.shape != part.shape or sources.digest(images) != part.sha256:
        raise _damaged(source, folder, f"the images of {split!r} are not the ones expected")
    if not piece.exists():
        _write_piece(piece, images)
    return images.reshape(len(images), -1)


def _damaged(source: Source, folder: Path, why: str) -> UserError:
    return UserError(
        f"the prepared data of {source.name} in {folder} are damaged ({why}); delete this folder, "
        "and the next run prepares it again"
    )


def _write_piece(piece: Path, images: np.ndarray) -> None:
    """All of the file or none of it; a folder that others may only read stays without it."""
    try:
        with tempfile.NamedTemporaryFile(dir=piece.parent, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
    except OSError:
        return
    try:
        with temporary.open("wb") as file:
            np.save(file, images)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o664)
        temporary.replace(piece)
    except OSError:
        temporary.unlink(missing_ok=True)
