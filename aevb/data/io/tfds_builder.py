"""Public files as TensorFlow datasets.

TFDS takes 0.6 s to import, so this module is imported only where it is needed. It does not need
TensorFlow.

The datasets are called ``aevb_<name>``, because TFDS has its own ``mnist`` and ``binarized_mnist``,
which need TensorFlow and may be in the same folder.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.core.units import Size

from aevb.data.io import sources
from aevb.data.io.sources import Part, Source
from aevb.errors import UserError


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The TFDS builder of a Source.

    Its records are {"index": the position in the file, "image": ..., ...}.
    """

    VERSION = tfds.core.Version(sources.VERSION)
    source: Source
    files: Mapping[Part, Path | None] = {}  # path, or None if not on this machine
    how_to_bring = ""  # instructions for the user to get the missing files

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            name: tfds.features.Tensor(shape=part.shape[1:], dtype=np.uint8)
            for name, part in next(iter(self.source.splits.values())).items()
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.source.name}, in the order of its public files.",
            citation=self.source.citation,
            features=tfds.features.FeaturesDict(
                {"index": tfds.features.Scalar(np.int32), **features}
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        missing = {
            part: part.download.url
            for part, path in self.files.items()
            if path is None and part.download
        }
        try:
            downloaded: Any = dl_manager.download(missing)
        except Exception as error:  # from TFDS, requests, urllib3 or the file system
            raise UserError(
                f"{self.source.name} could not be downloaded ({sources.one_line(error)}); "
                + self.how_to_bring
            ) from None
        paths = {**self.files, **{part: Path(path) for part, path in downloaded.items()}}
        arrays = {
            split: {
                name: sources.read(self.source, part, paths[part])
                for name, part in features.items()
            }
            for split, features in self.source.splits.items()
        }
        return {split: self._generate_examples(columns) for split, columns in arrays.items()}

    def _generate_examples(
        self, columns: dict[str, np.ndarray]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, values in enumerate(zip(*columns.values(), strict=True)):
            yield index, {"index": index, **dict(zip(columns, values, strict=True))}


def builder(source: Source, directory: Path) -> Builder:
    """Returns the TFDS builder of a source, for datasets under `directory`."""
    downloads = [
        part.download
        for features in source.splits.values()
        for part in features.values()
        if part.download
    ]
    checksums = {
        file.url: UrlInfo(
            size=Size(file.size), checksum=file.sha256, filename=file.url.rpartition("/")[2]
        )
        for file in downloads
    }
    name = "Aevb" + source.name.title().replace("_", "")  # TFDS turns it into aevb_<name>
    fields = {"source": source, "url_infos": checksums}
    named: Any = type(name, (Builder,), fields, skip_registration=True)
    return named(data_dir=str(directory))


def write(
    source: Source, directory: Path, files: Mapping[Part, Path | None], how_to_bring: str
) -> None:
    """Prepares a source under `directory`. TFDS renames the folder when it is complete.

    Raises:
        UserError: a download fails or does not match its checksum; a file is damaged.
        OSError: the folder cannot be written.
    """
    with _quiet():
        prepared = builder(source, directory)
        prepared.files, prepared.how_to_bring = files, how_to_bring
        prepared.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(
                force_checksums_validation=True, try_download_gcs=False
            ),
        )


def read(source: Source, directory: Path, split: str, part: str = "image") -> np.ndarray:
    """Returns a part of a prepared split, uint8 [N, ...], in the order of the public file."""
    prepared: Any = builder(source, directory)
    with _quiet():
        records = prepared.as_data_source(split)
        examples = records.__getitems__(list(range(len(records))))
    rows = [e[part] for e in sorted(examples, key=lambda e: int(e["index"]))]
    return np.stack(rows).astype(np.uint8)  # TFDS returns scalars as int64


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the output and progress bars of TFDS; its errors are raised as exceptions."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
