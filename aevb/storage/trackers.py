"""What a run shows of itself while it trains, on TensorBoard and on Weights & Biases."""

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

EXAMPLES = "examples"  # of a record, against which all else is drawn
OFF = "off"  # of the modes of Weights & Biases, of which the others are its own words
METRICS = ("train_bound", "test_bound")  # by which runs are compared

Picture = np.ndarray  # [h, w] or [h, w, 3] uint8
Pictures = Callable[[PyTree], Mapping[str, Picture]]  # of a state's parameters, by their names


class Board(Protocol):
    """A place where a run's records are shown."""

    def append(
        self, record: Mapping[str, Any], pictures: Mapping[str, Picture] | None = None
    ) -> None:
        """Adds a record's numbers, and pictures, at its count of examples."""
        ...

    def close(self, *, is_done: bool) -> None:
        """Nothing comes any more: the run is done, or it has failed or was stopped."""
        ...


def require_libraries(*, tensorboard: bool, wandb: str) -> None:
    """Raises a UserError where a library is not installed that the boards which are on need."""
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
    """The boards of a run that are on, in its folder, as the classes say.

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
        for found in _messages(event.Event, _contents(file.read_bytes())):
            if found.session_log.status == event.SessionLog.START:
                shown = {examples for examples in shown if examples < found.step}
            if any(value.tag == METRICS[-1] for value in found.summary.value):
                shown.add(found.step)
    return shown


def _messages(kind: Any, contents: Iterable[bytes]) -> Iterator[Any]:
    """Contents as protobuf's messages of a kind; one that is none ends them."""
    for content in contents:
        try:
            message = kind.FromString(content)
        except Exception:  # protobuf's; from here on nobody can read the file
            return
        yield message


def _contents(file: bytes) -> Iterator[bytes]:
    """The whole records of an event file; one that a kill cut off ends it."""
    position, header, footer = 0, 12, 4  # a length of 8 bytes and its checksum; another checksum
    while position + header <= len(file):
        (length,) = struct.unpack_from("<Q", file, position)
        begin, end = position + header, position + header + length
        position = end + footer
        if position <= len(file):
            yield file[begin:end]


class WeightsAndBiases:
    """A run's records, pictures and config in its folder's wandb/, and online on a server.

    A process in the background writes: a kill of all of them loses what was added a second before.
    """

    def __init__(
        self,
        folder: Path,
        records: Sequence[Mapping[str, Any]] = (),
        *,
        mode: str,
        config: Mapping[str, Any] | None = None,
    ):
        """Goes on with the run that lies in a folder, if there is one, or begins one.

        Of the records it gets the numbers that it does not have.

        Args:
            folder: the run's own.
            records: of the log so far.
            mode: "offline" or "online".
            config: the run's hyper-parameters.

        Raises:
            UserError: wandb is not installed, or online: nobody is logged in, or no server answers.
        """
        library = _wandb()
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted(folder.glob("wandb/*run-*/run-*.wandb"))  # by the time of their folders
        self._picture = library.Image
        self._shown = _examples_logged(files)
        try:
            with _HOOKS:
                self._run = _begin(
                    library, folder, mode, dict(config or {}),
                    run_id=files[-1].stem.removeprefix("run-") if files else secrets.token_hex(4),
                )  # fmt: skip
        except Exception as error:  # of many kinds, some of them of its own libraries
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
        """Adds a record's numbers, and pictures, unless they are there: a step comes but once."""
        examples = record[EXAMPLES]
        if examples in self._shown:
            return
        self._shown.add(examples)

        def log(run: Any) -> None:
            drawn = {name: self._picture(picture) for name, picture in (pictures or {}).items()}
            run.log({**record, **drawn}, step=examples, commit=True)

        self._try(log)

    def close(self, *, is_done: bool) -> None:
        """Waits until it is written and, for half a minute at most, uploaded."""
        self._try(lambda run: run.finish(exit_code=0 if is_done else 1))
        self._run = None

    def _try(self, action: Callable[[Any], object]) -> None:
        """A board that fails is no reason for a run to do so."""
        try:
            if self._run is not None:
                action(self._run)
        except Exception as error:
            said = f"Weights & Biases has failed ({_first_line(error)}); the run goes on without it"
            print(said, file=sys.stderr)
            self._run = None


_HOOKS = threading.Lock()  # while a run begins, which changes what belongs to the whole process


def _begin(library: Any, folder: Path, mode: str, config: dict[str, Any], *, run_id: str) -> Any:
    """A run of Weights & Biases that says nothing, looks at nothing and catches nothing."""
    where = folder.absolute()
    settings = library.Settings(
        mode=mode,
        root_dir=str(where),
        use_dot_wandb=False,
        run_id=run_id,
        run_name=where.name,
        run_group=where.parent.name,
        resume="allow" if mode == "online" else None,
        reinit="create_new",  # a sweep has several in one process
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
        library.setup(library.Settings(silent=True))  # which is for what is said before a run
        if mode == "online" and not library.login(prompt=False):
            raise PermissionError("nobody is logged in; `wandb login` does it")
        project = os.environ.get("WANDB_PROJECT", "aevb")
        run = library.init(project=project, config=config, settings=settings)
    finally:
        sys.exit, sys.excepthook = hooks
    run.define_metric("*", step_metric=EXAMPLES)
    return run


def _wandb() -> Any:
    """The library, which is told to report nothing to its makers."""
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
    """At which counts of examples the files of a run have records."""
    if not files:
        return set()
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # which are made at run time
    logged = set()
    for file in files:
        for found in _messages(messages.Record, _transactions(file.read_bytes())):
            if found.HasField("history"):
                logged.add(found.history.step.num)
    return logged


def _transactions(file: bytes) -> Iterator[bytes]:
    """The whole records of a .wandb file, which is a log of LevelDB's format.

    Blocks of 32 KiB hold parts of records, each behind a checksum of 4 bytes, a length of 2 and a
    kind: all of a record, its first, a middle or its last part.
    """
    block, header, position, begun = 2**15, 7, 7, b""  # the file has a header of its own
    while position + header <= len(file):
        if block - position % block < header:  # zeros up to the next block
            position += block - position % block
            continue
        length, kind = struct.unpack_from("<HB", file, position + 4)
        begin, position = position + header, position + header + length
        if position > len(file) or kind not in (1, 2, 3, 4):
            return
        begun = file[begin:position] if kind in (1, 2) else begun + file[begin:position]
        if kind in (1, 4):
            yield begun
