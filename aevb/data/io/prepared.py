"""Datasets on disk: prepared once as a TensorFlow dataset, then read without TFDS.

``<data.dir>/aevb_<name>/<VERSION>/`` holds one array_record per split. Each of its records holds a
datapoint and its index. ``<split>.npy`` in the same folder holds the same images as one array.
Decoding 70,000 records and importing TFDS takes 3.5 s; reading the arrays takes 0.1 s. Both are
checked against the digest of the pixels. The folder and the array files get their names only when
they are complete.
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

CONNECT_SECONDS = 5.0  # timeout of the connection
PATIENCE_SECONDS = 10.0  # timeout in total, because the DNS look-up has no timeout of its own


def load(
    source: Source, splits: tuple[str, ...], options: Options, part: str = "image"
) -> list[np.ndarray]:
    """Returns a part of each split, uint8 [N, D]. Prepares the dataset first if necessary.

    Raises:
        UserError: the files are not on this machine and cannot be downloaded; a file or the
            prepared folder is damaged; the folder cannot be written.
    """
    folder = prepare(source, options)
    return [_read(source, folder, split, part) for split in splits]


def prepare(source: Source, options: Options) -> Path:
    """Prepares a dataset if its folder does not exist yet, and returns the folder.

    The folder gets its name only when it is complete, so an existing one is complete.

    Raises:
        UserError: as for `load`.
    """
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
        from aevb.data.io import tfds_builder  # the import takes 0.6 s, and is needed only once

        tfds_builder.write(source, directory, files, sources.how_to_bring(source, missing, options))
    except OSError as error:
        if os.path.isdir(folder):  # another process has prepared the same data meanwhile
            return folder
        raise UserError(
            f"{source.name} cannot be prepared in {folder} ({sources.one_line(error)}); let "
            "data.dir or $TFDS_DATA_DIR name a folder that can be written and has space"
        ) from None
    return folder


def _parts(source: Source) -> list[Part]:
    return [part for features in source.splits.values() for part in features.values()]


def _require_network(source: Source, missing: list[Part], options: Options) -> None:
    """Checks that the network answers, because TFDS would retry for minutes.

    Raises:
        UserError: the missing files cannot be downloaded.
    """
    urls = [part.download.url for part in missing if part.download]
    why = [f"no answer in {PATIENCE_SECONDS:.0f} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urls[0], timeout=CONNECT_SECONDS):
                why[0] = ""
        except Exception as error:  # any error means that the file cannot be downloaded
            why[0] = sources.one_line(getattr(error, "reason", error))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE_SECONDS)
    if why[0]:
        raise UserError(
            f"{source.name} is not on this machine and {urls[0]} cannot be downloaded ({why[0]}); "
            + sources.how_to_bring(source, missing, options)
        )


def _read(source: Source, folder: Path, split: str, name: str) -> np.ndarray:
    """Returns a part of one split, [N, D], from the array file or else from the records.

    Raises:
        UserError: they cannot be read, or are damaged.
    """
    part = source.splits[split][name]
    piece = folder / (f"{split}.npy" if name == "image" else f"{split}_{name}.npy")
    try:
        if piece.exists():
            images = np.load(piece, allow_pickle=False)
        else:
            from aevb.data.io import tfds_builder

            images = tfds_builder.read(source, folder.parent.parent, split, name)
    except (ImportError, MemoryError):
        raise
    except PermissionError as error:
        raise UserError(
            f"the prepared data of {source.name} in {folder} cannot be read "
            f"({sources.one_line(error)}); ask their owner for leave, or name another data.dir"
        ) from None
    except Exception as error:  # many types of error, if a file is damaged
        raise _damaged(source, folder, sources.one_line(error)) from None
    if images.shape != part.shape or sources.digest(images) != part.sha256:
        raise _damaged(source, folder, f"the {name}s of {split!r} are not the ones expected")
    if not piece.exists():
        _write_piece(piece, images)
    return images.reshape(len(images), -1)


def _damaged(source: Source, folder: Path, why: str) -> UserError:
    return UserError(
        f"the prepared data of {source.name} in {folder} are damaged ({why}); delete this folder, "
        "and the next run prepares it again"
    )


def _write_piece(piece: Path, images: np.ndarray) -> None:
    """Writes the array file atomically. Does nothing if the file cannot be written."""
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
