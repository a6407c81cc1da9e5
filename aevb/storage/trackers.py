"""Trackers, which show a run during training: TensorBoard and Weights & Biases."""

import importlib.util
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from aevb.errors import UserError
from aevb.storage.metrics_log import replace_text
from aevb.types import PyTree

EXAMPLES = "examples"  # the entry of a record that is the x-axis of all others
OFF = "off"  # no Weights & Biases; the other modes are named as in its library
METRICS = ("train_bound", "valid_bound", "test_bound")  # the metrics that compare runs
LAST = "last_record"  # a file with the count of examples of the last record that is on the disk

Record = Mapping[str, Any]
Picture = np.ndarray  # [h, w] or [h, w, 3] uint8
Pictures = Callable[[PyTree], Mapping[str, Picture]]  # parameters -> pictures by name


class TensorBoard:
    """A tracker that writes a run's records, pictures and hyperparameters to event files."""

    def __init__(self, folder: Path, records: Sequence[Record], examples: int, config: Record):
        """Begins or continues the event files of a folder, so that each record occurs once.

        Old files are kept, because the pictures of old parameters cannot be drawn again. A new file
        hides all events after the count of examples in the file `last_record`, and after
        `examples`. Then the numbers of all later `records` are added, for example of those logged
        while this tracker was off.

        Args:
            folder: the folder of the event files, which need not exist.
            records: the log so far.
            examples: the run's current count of examples; later records will be added again.
            config: the hyperparameters: numbers, bools, strings and tuples.
        """
        # tensorboardX's SummaryWriter writes in a thread, and its `flush` does not wait for it.
        from tensorboardX import RecordWriter, summary
        from tensorboardX.proto import event_pb2

        self._summary = summary
        self._messages: Any = event_pb2  # its classes are created at run time
        folder.mkdir(parents=True, exist_ok=True)
        self._note = folder / LAST
        last = (
            min(examples, int(self._note.read_text(encoding="utf-8"))) if self._note.exists() else 0
        )
        # Readers sort the files by name, and the clock may have been set back.
        number = len(list(folder.glob("events.*.tfevents")))
        self._writer = RecordWriter(str(folder / f"events.{number:06d}.tfevents"))
        self._write(file_version="brain.Event:2")
        start = self._messages.SessionLog.START
        self._write(step=last + 1, session_log=self._messages.SessionLog(status=start))
        hyper_parameters = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in config.items()
        }
        *begin, self._end = summary.hparams(hyper_parameters, dict.fromkeys(METRICS))
        for each in begin:
            self._write(summary=each)
        for record in records:
            if record[EXAMPLES] > last:
                self.append(record)

    def append(self, record: Record, pictures: Mapping[str, Picture] | None = None) -> None:
        """Adds a record's numbers, and pictures, at its count of examples.

        When this returns, the operating system has them, so none are lost if the process is killed.
        """
        numbers = {name: value for name, value in record.items() if name != EXAMPLES}
        summaries = [self._summary.scalar(name, value) for name, value in numbers.items()]
        for name, picture in (pictures or {}).items():
            channels = picture.reshape(*picture.shape[:2], -1)
            summaries.append(self._summary.image(name, channels, dataformats="HWC"))
        for each in summaries:
            self._write(step=record[EXAMPLES], summary=each)
        self._writer.flush()
        replace_text(self._note, str(record[EXAMPLES]))

    def close(self, *, is_done: bool) -> None:
        """Writes the end of the run, if it is done, and closes the file."""
        if is_done:
            self._write(summary=self._end)
        self._writer.close()

    def _write(self, **fields: Any) -> None:
        event = self._messages.Event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())


class WeightsAndBiases:
    """A tracker that writes a run's records, pictures and config to its folder's wandb/.

    In the mode "online" it also sends them to a server. A background process does both, so the
    last ones can be lost if it is killed. A resumed run keeps its id and gets a new folder in
    wandb/. The records that neither the server nor a closed folder has are added again, with their
    pictures from wandb/pictures/. When the new folder is closed, it replaces those of the mode
    "offline" that were not closed.
    """

    def __init__(self, folder: Path, records: Sequence[Record], mode: str, config: Record):
        """Continues the Weights & Biases run in a folder, or begins one if there is none.

        The mode is "offline" or "online". The other arguments are as for TensorBoard.

        Raises:
            UserError: it cannot begin, for example because no user is logged in.
        """
        self._pictures = folder / "wandb" / "pictures"
        self._pictures.mkdir(parents=True, exist_ok=True)
        files = list(folder.glob("wandb/*run-*/run-*.wandb"))
        run_id = files[0].stem.removeprefix("run-") if files else secrets.token_hex(4)
        earlier = [file.parent for file in files]
        closed = [it for it in earlier if (it / LAST).exists() and mode == "offline"]
        self._replaced = {it for it in earlier if it.name.startswith("offline-")} - set(closed)
        try:
            self._run = _begin(folder.absolute(), mode, dict(config), run_id)
        except Exception as error:  # many types, some from wandb's dependencies
            others = "'off'" if mode == "offline" else "'offline' or 'off'"
            raise UserError(
                f"config.train.wandb is {mode!r}, and Weights & Biases cannot begin "
                f"({_first_line(error)}); set it to {others}"
            ) from error
        notes = [int((it / LAST).read_text(encoding="utf-8")) for it in closed]
        self._last = max([self._run.starting_step - 1, *notes])
        for record in records:
            self.append(record)

    def append(self, record: Record, pictures: Mapping[str, Picture] | None = None) -> None:
        """Adds a record's numbers, and pictures, at its count of examples.

        It ignores a record that the run already has. Without `pictures` it adds those that were
        saved with the record before the run was resumed.
        """
        from wandb import Image

        step, images = record[EXAMPLES], {}
        file = self._pictures / f"{step}.npz"
        if pictures:
            np.savez_compressed(file, **dict[str, Any](pictures))
        with self._reporting_failures():
            if self._run is not None and step > self._last:
                if file.exists():
                    with np.load(file) as saved:
                        images = {name: Image(picture) for name, picture in saved.items()}
                self._run.log({**record, **images}, step=step, commit=True)
                self._last = step

    def close(self, *, is_done: bool) -> None:
        """Waits until all data are written and, in the mode "online", uploaded (30 s at most)."""
        with self._reporting_failures():
            if self._run is not None:
                self._run.finish(exit_code=0 if is_done else 1)
                (Path(self._run.sync_dir) / LAST).write_text(str(self._last), encoding="utf-8")
                for folder in self._replaced:
                    shutil.rmtree(folder)
        self._run = None

    @contextmanager
    def _reporting_failures(self) -> Iterator[None]:
        """Returns a context in which a failure is reported on stderr and ends the tracking."""
        try:
            yield
        except Exception as error:  # many types; a tracker must not stop the training
            message = f"Weights & Biases has failed ({_first_line(error)}); training continues"
            print(message, file=sys.stderr)
            self._run = None


_HOOKS = threading.Lock()  # held while a run begins, which changes sys.exit and sys.excepthook


def _begin(folder: Path, mode: Any, config: dict[str, Any], run_id: str) -> Any:
    """Begins a silent Weights & Biases run and returns it.

    The run records neither the console nor the code or the machine, and it leaves sys.exit and
    sys.excepthook unchanged.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    settings = wandb.Settings(
        mode=mode,
        project=os.environ.get("WANDB_PROJECT", "aevb"),
        root_dir=str(folder),
        run_id=run_id,
        run_name=folder.name,
        run_group=folder.parent.name,
        resume="allow" if mode == "online" else None,
        reinit="create_new",  # a sweep has several runs in one process
        init_timeout=30.0,
        finish_timeout=30.0,
        silent=True,
        console="off",
        save_code=False,
        symlink=False,
        host="",
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    with _HOOKS:
        hooks = sys.exit, sys.excepthook
        try:
            wandb.setup(wandb.Settings(silent=True))  # for the messages before the run
            if mode == "online" and not wandb.login(prompt=False):
                raise PermissionError("nobody is logged in; `wandb login` does it")
            run = wandb.init(config=config, settings=settings)
        finally:
            sys.exit, sys.excepthook = hooks
    run.define_metric("*", step_metric=EXAMPLES)
    return run


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


Tracker = TensorBoard | WeightsAndBiases


def open_trackers(
    folder: Path,
    records: Sequence[Record],
    *,
    examples: int,
    config: Record | None,
    tensorboard: bool,
    wandb: str,
) -> list[Tracker]:
    """Opens the enabled trackers of a run, in its folder. The arguments are as for the classes.

    Raises:
        UserError: a library is not installed, or Weights & Biases cannot begin.
    """
    require_libraries(tensorboard=tensorboard, wandb=wandb)
    trackers: list[Tracker] = []
    if tensorboard:
        trackers.append(TensorBoard(folder / "tensorboard", records, examples, config or {}))
    if wandb != OFF:
        trackers.append(WeightsAndBiases(folder, records, wandb, config or {}))
    return trackers


def require_libraries(*, tensorboard: bool, wandb: str) -> None:
    """Raises a UserError if a library of the enabled trackers is not installed."""
    for field, library, is_on, off in (
        ("tensorboard", "tensorboardX", tensorboard, False),
        ("wandb", "wandb", wandb != OFF, OFF),
    ):
        if is_on and importlib.util.find_spec(library) is None:
            raise UserError(
                f"config.train.{field} is not {off!r}, which needs {library}; install it "
                f"(pip install 'aevb[{field}]') or set the field to {off!r}"
            )
