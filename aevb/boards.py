"""What a run shows of itself while it trains: TensorBoard's event files."""

import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aevb.errors import UserError
from aevb.types import PyTree

EXAMPLES = "examples"  # of a record, against which all else is drawn
METRICS = ("train_bound", "test_bound")  # by which runs are compared

Picture = np.ndarray  # [h, w] or [h, w, 3] uint8
Pictures = Callable[[PyTree], Mapping[str, Picture]]  # of a state's parameters, by their names


def require_libraries(*, tensorboard: bool) -> None:
    """Raises a UserError where a library is not installed that the boards which are on need."""
    if tensorboard:
        _tensorboard()


class TensorBoard:
    """A run's records, pictures and hyper-parameters in event files, a new one each resumption.

    What is added is on its way to the disk when the call returns, whatever becomes of the process.
    """

    def __init__(
        self,
        folder: Path,
        records: Sequence[Mapping[str, Any]] = (),
        *,
        examples: int = 0,
        config: Mapping[str, Any] | None = None,
    ):
        """Goes on with a folder, which need not exist, so that it repeats and misses no record.

        Old files stay, since pictures of old parameters cannot be made anew. What they hold beyond
        `examples` is taken back, and of the records they get the numbers that they do not have.

        Args:
            records: of the log so far.
            examples: where the run is; records beyond come again.
            config: its hyper-parameters, which are numbers, bools, strings and tuples.

        Raises:
            UserError: tensorboardX is not installed.
        """
        record_writer, self._summary, self._event = _tensorboard()
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted(folder.glob("events.out.tfevents.*"))
        shown = _examples_shown(files, self._event)
        # Readers take the files by their names, and a clock may have been set back.
        stamp = max([int(time.time()), *(_stamp(file) + 1 for file in files)])
        path = folder / f"events.out.tfevents.{stamp:010d}.aevb"
        self._writer = record_writer.RecordWriter(str(path))
        self._write(file_version="brain.Event:2")
        if shown:
            start = self._event.SessionLog.START
            self._write(step=examples + 1, session_log=self._event.SessionLog(status=start))
        hyper_parameters = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in (config or {}).items()
        }
        *begin, self._end = self._summary.hparams(hyper_parameters, dict.fromkeys(METRICS))
        for summary in begin:
            self._write(summary=summary)
        for record in records:
            if record[EXAMPLES] not in shown:
                self.append(record)
        self._writer.flush()

    def append(
        self, record: Mapping[str, Any], pictures: Mapping[str, Picture] | None = None
    ) -> None:
        """Adds a record's numbers, and pictures, at its count of examples."""
        numbers = {name: value for name, value in record.items() if name != EXAMPLES}
        summaries = [self._summary.scalar(name, value) for name, value in numbers.items()]
        for name, picture in (pictures or {}).items():
            channels = picture.reshape(*picture.shape[:2], -1)
            summaries.append(self._summary.image(name, channels, dataformats="HWC"))
        for summary in summaries:
            self._write(step=record[EXAMPLES], summary=summary)
        self._writer.flush()

    def close(self, *, is_done: bool) -> None:
        """Ends the file; of a run that is done it says so."""
        if is_done:
            self._write(summary=self._end)
        self._writer.close()

    def _write(self, **fields: Any) -> None:
        event = self._event.Event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())


def _tensorboard() -> tuple[Any, Any, Any]:
    """tensorboardX's framing of records, its summaries and its messages.

    Its SummaryWriter hands events to a thread, which a kill can overtake.
    """
    try:
        from tensorboardX import record_writer, summary
        from tensorboardX.proto import event_pb2
    except ImportError as error:
        raise UserError(
            "config.train.tensorboard is True, which needs tensorboardX; install it "
            "(pip install 'aevb[tensorboard]') or set the field to False"
        ) from error
    return record_writer, summary, event_pb2


def _stamp(file: Path) -> int:
    """The time in an event file's name, seconds; 0 where there is none."""
    digits = file.name.removeprefix("events.out.tfevents.").partition(".")[0]
    return int(digits) if digits.isdecimal() else 0


def _examples_shown(files: Sequence[Path], event: Any) -> set[int]:
    """At which counts of examples event files have records, as TensorBoard's reader sees it."""
    shown = set()
    for file in files:
        for content in _contents(file.read_bytes()):
            try:
                found = event.Event.FromString(content)
            except Exception:  # protobuf's; from here on nobody can read the file
                break
            if found.session_log.status == event.SessionLog.START:
                shown = {examples for examples in shown if examples < found.step}
            if any(value.tag == METRICS[-1] for value in found.summary.value):
                shown.add(found.step)
    return shown


def _contents(file: bytes) -> Iterator[bytes]:
    """The whole records of an event file; one that a kill cut off ends it."""
    position, header, footer = 0, 12, 4  # a length of 8 bytes and its checksum; another checksum
    while position + header <= len(file):
        (length,) = struct.unpack_from("<Q", file, position)
        begin, end = position + header, position + header + length
        position = end + footer
        if position <= len(file):
            yield file[begin:end]
