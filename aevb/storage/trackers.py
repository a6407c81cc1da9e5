"""Trackers, which show a run during training: TensorBoard and Weights & Biases."""

import os
import secrets
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aevb.errors import UserError
from aevb.types import PyTree

EXAMPLES = "examples"  # the entry of a record that is the x-axis of all others
OFF = "off"  # no Weights & Biases; the other modes are named as in its library
METRICS = ("train_bound", "test_bound")  # the metrics that compare runs

Picture = np.ndarray  # [h, w] or [h, w, 3] uint8
Pictures = Callable[[PyTree], Mapping[str, Picture]]  # parameters -> pictures by name


class Board(Protocol):
    """The interface of a tracker, which shows a run's records."""

    def append(
        self, record: Mapping[str, Any], pictures: Mapping[str, Picture] | None = None
    ) -> None:
        """Adds a record's numbers, and pictures, at its count of examples."""
        ...

    def close(self, *, is_done: bool) -> None:
        """Ends the tracking; `is_done` is False for a run that has failed or was stopped."""
        ...


def require_libraries(*, tensorboard: bool, wandb: str) -> None:
    """Checks that the libraries of the enabled trackers are installed.

    Raises:
        UserError: one is not.
    """
    if tensorboard:
        _tensorboard()
    if wandb != OFF:
        _wandb()


def open_boards(
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    *,
    examples: int,
    config: Mapping[str, Any] | None,
    tensorboard: bool,
    wandb: str,
) -> list[Board]:
    """Opens the enabled trackers of a run, in its folder. The arguments are as for the classes.

    Raises:
        UserError: a library is not installed, or Weights & Biases cannot be reached.
    """
    boards: list[Board] = []
    if tensorboard:
        found = TensorBoard(folder / "tensorboard", records, examples=examples, config=config)
        boards.append(found)
    if wandb != OFF:
        boards.append(WeightsAndBiases(folder, records, mode=wandb, config=config))
    return boards


class TensorBoard:
    """A tracker that writes a run's records, pictures and hyperparameters to event files.

    Each resumption begins a new file. Data have been handed to the operating system when a call
    returns, so they reach the disk even if the process is killed.
    """

    def __init__(
        self,
        folder: Path,
        records: Sequence[Mapping[str, Any]] = (),
        *,
        examples: int = 0,
        config: Mapping[str, Any] | None = None,
    ):
        """Begins or continues the event files of a folder, so that each record occurs once.

        The folder need not exist. Old files are kept, because pictures of old parameters cannot be
        drawn again. A new event invalidates their contents after `examples`. The numbers of those
        `records` that the old files lack are added.

        Args:
            records: the log so far.
            examples: the run's current count; later records will be added again.
            config: the hyperparameters: numbers, bools, strings and tuples.

        Raises:
            UserError: tensorboardX is not installed.
        """
        record_writer, self._summary, self._event = _tensorboard()
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted(folder.glob("events.out.tfevents.*"))
        shown = _examples_shown(files, self._event)
        # Readers sort the files by name, and the clock may have been set back.
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
        """Closes the file; for a run that is done, it first records that."""
        if is_done:
            self._write(summary=self._end)
        self._writer.close()

    def _write(self, **fields: Any) -> None:
        event = self._event.Event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())


def _tensorboard() -> tuple[Any, Any, Any]:
    """Imports and returns tensorboardX's record writer, its summaries and its messages.

    Its SummaryWriter is not used, because it writes in a thread, whose events a kill can lose.

    Raises:
        UserError: tensorboardX is not installed.
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
    """Returns the time in an event file's name, in seconds, or 0 if there is none."""
    digits = file.name.removeprefix("events.out.tfevents.").partition(".")[0]
    return int(digits) if digits.isdecimal() else 0


def _examples_shown(files: Sequence[Path], event: Any) -> set[int]:
    """Returns the counts of examples whose records TensorBoard shows for these event files."""
    shown = set()
    for file in files:
        for found in _messages(event.Event, _contents(file.read_bytes())):
            if found.session_log.status == event.SessionLog.START:
                shown = {examples for examples in shown if examples < found.step}
            if any(value.tag == METRICS[-1] for value in found.summary.value):
                shown.add(found.step)
    return shown


def _messages(kind: Any, contents: Iterable[bytes]) -> Iterator[Any]:
    """Yields contents as protobuf messages of a type, up to the first that is not one."""
    for content in contents:
        try:
            message = kind.FromString(content)
        except Exception:  # from protobuf; the rest of the file is unreadable
            return
        yield message


def _contents(file: bytes) -> Iterator[bytes]:
    """Yields the complete records of an event file, up to one that a kill truncated."""
    position, header, footer = 0, 12, 4  # header: length (8 bytes), checksum; footer: checksum
    while position + header <= len(file):
        (length,) = struct.unpack_from("<Q", file, position)
        begin, end = position + header, position + header + length
        position = end + footer
        if position <= len(file):
            yield file[begin:end]


class WeightsAndBiases:
    """A tracker that writes a run's records, pictures and config to its folder's wandb/.

    In the mode "online" it also sends them to a server. A background process writes them, so a kill
    of all processes loses the data of the last second.
    """

    def __init__(
        self,
        folder: Path,
        records: Sequence[Mapping[str, Any]] = (),
        *,
        mode: str,
        config: Mapping[str, Any] | None = None,
    ):
        """Continues the Weights & Biases run in a folder, or begins one if there is none.

        The numbers of those `records` that the run lacks are added to it.

        Args:
            folder: the run's folder.
            records: the log so far.
            mode: "offline" or "online".
            config: the run's hyperparameters.

        Raises:
            UserError: wandb is not installed or cannot begin. In the mode "online" this can mean
                that no user is logged in, or that no server answers.
        """
        library = _wandb()
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted(folder.glob("wandb/*run-*/run-*.wandb"))  # folders sort by time
        self._picture = library.Image
        self._shown = _examples_logged(files)
        try:
            with _HOOKS:
                self._run = _begin(
                    library, folder, mode, dict(config or {}),
                    run_id=files[-1].stem.removeprefix("run-") if files else secrets.token_hex(4),
                )  # fmt: skip
        except Exception as error:  # many types, some from wandb's dependencies
            others = (
                "'off'" if mode == "offline" else "'offline' (`wandb sync` uploads it) or 'off'"
            )
            raise UserError(
                f"config.train.wandb is {mode!r}, and Weights & Biases cannot begin "
                f"({_first_line(error)}); set it to {others}"
            ) from error
        for record in records:
            self.append(record)

    def append(
        self, record: Mapping[str, Any], pictures: Mapping[str, Picture] | None = None
    ) -> None:
        """Adds a record's numbers and pictures, unless its count of examples was added before."""
        examples = record[EXAMPLES]
        if examples in self._shown:
            return
        self._shown.add(examples)

        def log(run: Any) -> None:
            drawn = {name: self._picture(picture) for name, picture in (pictures or {}).items()}
            run.log({**record, **drawn}, step=examples, commit=True)

        self._try(log)

    def close(self, *, is_done: bool) -> None:
        """Waits until all data are written and, in the mode "online", uploaded (30 s at most)."""
        self._try(lambda run: run.finish(exit_code=0 if is_done else 1))
        self._run = None

    def _try(self, action: Callable[[Any], object]) -> None:
        """Applies `action` to the tracker's run.

        A failure is reported on stderr and ends the tracking; training continues.
        """
        try:
            if self._run is not None:
                action(self._run)
        except Exception as error:
            said = f"Weights & Biases has failed ({_first_line(error)}); the run goes on without it"
            print(said, file=sys.stderr)
            self._run = None


_HOOKS = threading.Lock()  # held while a run begins, which changes sys.exit and sys.excepthook


def _begin(library: Any, folder: Path, mode: str, config: dict[str, Any], *, run_id: str) -> Any:
    """Begins a silent Weights & Biases run and returns it.

    The run records neither the console nor the code or the machine, and it leaves sys.exit and
    sys.excepthook unchanged.
    """
    where = folder.absolute()
    settings = library.Settings(
        mode=mode,
        root_dir=str(where),
        use_dot_wandb=False,
        run_id=run_id,
        run_name=where.name,
        run_group=where.parent.name,
        resume="allow" if mode == "online" else None,
        reinit="create_new",  # a sweep has several runs in one process
        init_timeout=30.0,
        finish_timeout=30.0,
        x_transaction_log_flush_interval=1.0,
        silent=True,
        console="off",
        symlink=False,
        save_code=False,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        label_disable=True,
        host="",
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    hooks = sys.exit, sys.excepthook
    try:
        library.setup(library.Settings(silent=True))  # for the messages before the run
        if mode == "online" and not library.login(prompt=False):
            raise PermissionError("nobody is logged in; `wandb login` does it")
        project = os.environ.get("WANDB_PROJECT", "aevb")
        run = library.init(project=project, config=config, settings=settings)
    finally:
        sys.exit, sys.excepthook = hooks
    run.define_metric("*", step_metric=EXAMPLES)
    return run


def _wandb() -> Any:
    """Imports and returns wandb, with error reports to its developers turned off.

    Raises:
        UserError: wandb is not installed.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "config.train.wandb is not 'off', which needs wandb; install it "
            "(pip install 'aevb[wandb]') or set the field to 'off'"
        ) from error
    return wandb


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _examples_logged(files: Sequence[Path]) -> set[int]:
    """Returns the counts of examples whose records the files of a run hold."""
    if not files:
        return set()
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # its classes are created at run time
    logged = set()
    for file in files:
        for found in _messages(messages.Record, _transactions(file.read_bytes())):
            if found.HasField("history"):
                logged.add(found.history.step.num)
    return logged


def _transactions(file: bytes) -> Iterator[bytes]:
    """Yields the complete records of a .wandb file, which is a log in LevelDB's format.

    Blocks of 32 KiB hold parts of records. Each part follows a checksum of 4 bytes, a length of 2
    bytes and a kind of 1 byte: 1 for a whole record, or 2, 3 and 4 for its first, a middle and its
    last part.
    """
    block, header, position, begun = 2**15, 7, 7, b""  # position 7, after the file's own header
    while position + header <= len(file):
        if block - position % block < header:  # zero padding up to the next block
            position += block - position % block
            continue
        length, kind = struct.unpack_from("<HB", file, position + 4)
        begin, position = position + header, position + header + length
        if position > len(file) or kind not in (1, 2, 3, 4):
            return
        begun = file[begin:position] if kind in (1, 2) else begun + file[begin:position]
        if kind in (1, 4):
            yield begun
