"""A sweep's runs on the devices of this process.

Three mappings, of which `choose_mapping` takes the one that was measured to be the fastest:

- sequence: one run after the other, each on all cores;
- devices: as many runs at a time as there are devices, each on one; a CPU core is a device;
- stack: as one program for each device, with the runs' arrays stacked
  (`aevb.training.stacked_runs`).
"""

import contextlib
import math
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax import Array

from aevb import runs
from aevb.algorithms.base import Algorithm
from aevb.config import WITHOUT_EFFECT, Values, section
from aevb.data.io.array_records import Records
from aevb.errors import Interrupted
from aevb.evaluation import elbo
from aevb.experiment import Experiment, Loader, build, build_algorithm, build_optimizer, data_key
from aevb.runtime import xla
from aevb.runtime.signals import Signals
from aevb.storage.metrics_log import Report
from aevb.storage.trackers import Pictures
from aevb.sweeps.grid import SEED, Member
from aevb.sweeps.outcomes import summary_of
from aevb.training import loop, stacked_runs, streaming, trainer
from aevb.training.streaming import Data
from aevb.training.trainer import Failed, Journal, Settings, Trained

STEP_SIZE, LATENTS = "optimizer.step_size", "model.num_latents"
# Guides whose small statistics begin the large ones, and algorithms of which a padded weight that
# is 0 stays 0 and a padded latent changes nothing.
GUIDES_TO_PAD = ("diag_normal", "full_normal")
ALGORITHMS_TO_PAD = ("aevb", "wake_sleep", "reweighted_wake_sleep")
ONE_THREAD = {"xla_cpu_multi_thread_eigen": False}


Device = Any  # a jax.Device, which is no type to a type checker
Job = tuple[Member, ...]  # runs that train together: a single one in most mappings


class Program(NamedTuple):
    """What runs of one config share, whatever their seeds."""

    experiment: Experiment
    advance: loop.Program
    score: elbo.Scorer


class Machine:
    """The devices, and how runs are mapped onto them."""

    def __init__(self, mapping: str, num_runs: int):
        """Gives a CPU a device for each core, where that is wanted and not too late for it."""
        cores = xla.num_cores()
        on_cpu = choose_mapping(cores, num_runs, on_cpu=True) if mapping == "auto" else mapping
        if on_cpu == "devices":  # else jax's one device, which has all of the cores
            with contextlib.suppress(RuntimeError):  # jax is at work, with the devices it has
                jax.config.update("jax_num_cpu_devices", min(cores, num_runs))
        devices = jax.local_devices()
        self.on_cpu = devices[0].platform == "cpu"
        self.forced = mapping != "auto"
        self.mapping = mapping
        if not self.forced:
            self.mapping = choose_mapping(len(devices), num_runs, on_cpu=self.on_cpu)
        wanted = 1 if self.mapping == "sequence" else num_runs
        self.devices = devices[:wanted]

    @property
    def compiler_options(self) -> Mapping[str, Any]:
        return ONE_THREAD if self.on_cpu and len(self.devices) > 1 else {}

    def describe(self) -> str:
        how = {
            "sequence": "one run after the other",
            "devices": f"{len(self.devices)} runs at a time, each on a device",
            "stack": f"stacked into one program for each of {len(self.devices)} devices",
        }[self.mapping]
        why = "as --mapping says" if self.forced else "--mapping forces another"
        return f"mapping: {self.mapping}, {how} ({why})"


def choose_mapping(num_devices: int, num_runs: int, *, on_cpu: bool) -> str:
    """The fastest mapping, as it was measured; docs/speed.md has the figures.

    An accelerator is filled by a stack. A CPU core is not: a stack's batched products are slower
    there than the same products one by one, and a run on one core loses nothing to the others.
    """
    if num_runs == 1:
        return "sequence"
    if not on_cpu:
        return "stack"
    return "devices" if 2 * num_runs >= num_devices > 1 else "sequence"


class Workshop:
    """Runs members in their folders, and knows what came of each."""

    def __init__(self, folder: Path, machine: Machine):
        xla.use_cache()
        self.folder, self.machine = folder, machine
        self.mapping = machine.mapping
        self.devices: Sequence[str] = [str(device) for device in machine.devices]
        self.failures: dict[str, str] = {}  # name of a member -> why it has no summary
        self._programs: dict[tuple[Any, ...], Program] = {}
        self._pictures: dict[tuple[Any, ...], Pictures | None] = {}
        self.dataset = Loader()
        self._copies: dict[tuple[Any, ...], Data] = {}
        self._finishing = threading.Lock()  # pyplot is for one thread at a time

    def describe(self) -> str:
        """How the runs are mapped."""
        return self.machine.describe()

    def check(self, values: Values) -> None:
        """Raises a UserError where what a config names does not fit together, or is not there."""
        runs.require_boards(values)
        self.program(values)

    def program(self, values: Values) -> Program:
        """What a config's runs share, made the first time that it is asked for."""
        key = _program_key(values)
        if key not in self._programs:
            experiment = build(values, self.dataset(values))
            algorithm, dataset = experiment.algorithm, experiment.dataset
            program = streaming.make_program(
                algorithm,
                dataset,
                batch_size=values["train.batch_size"],
                compiler_options=self.machine.compiler_options,
            )
            score = elbo.make_score(experiment.vae, dataset.preprocess)
            self._programs[key] = Program(experiment, program, score)
        return self._programs[key]

    def run(self, members: Sequence[Member], signals: Signals, report: Report) -> None:
        """Trains and finishes what of the members is not finished.

        Raises:
            UserError: a folder cannot be used.
            Interrupted: when a signal has come.
        """
        with contextlib.ExitStack() as held:
            todo = []
            for member in members:
                claim = runs.claimed(self.folder / member.name, member.values)
                if summary_of(self.folder, member) or held.enter_context(claim):
                    report(member.num_examples, math.nan)
                else:
                    todo.append(member)
            self._train_all(self._jobs(todo), signals, report)

    def _train_all(self, waiting: list[Job], signals: Signals, report: Report) -> None:
        """Each device takes one after the other."""
        compiled: dict[Device, set[Any]] = defaultdict(set)  # programs, by device
        errors: list[BaseException] = []
        lock = threading.Lock()

        def report_in_turn(examples: int, bound: float) -> None:
            with lock:
                report(examples, bound)

        def next_job(device: Device) -> Job | None:
            """The longest, of those whose program is compiled here, or else nowhere, if any."""
            with lock:
                if not waiting:
                    return None
                elsewhere = set().union(*compiled.values()) - compiled[device]

                def reluctance(job: Job) -> int:
                    program = _program_key(job[0].values)
                    return 0 if program in compiled[device] else 2 if program in elsewhere else 1

                job = min(waiting, key=reluctance)
                waiting.remove(job)
                compiled[device].add(_program_key(job[0].values))
                return job

        def work(device: Device) -> None:
            while not signals.received and (job := next_job(device)):
                try:
                    with jax.default_device(device):
                        self._train(job, device, signals, report_in_turn)
                except BaseException as error:  # for the main thread to raise
                    errors.append(error)
                    signals.stop()  # the other threads, which save first

        if len(self.machine.devices) == 1:
            work(self.machine.devices[0])
        else:
            threads = [
                threading.Thread(target=work, args=(device,)) for device in self.machine.devices
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():  # a signal's handler runs between two waits
                    thread.join(timeout=0.2)
        for error in sorted(errors, key=lambda error: isinstance(error, Interrupted)):
            raise error
        if signals.received:
            raise Interrupted(signals.received, 0)

    def _jobs(self, members: Sequence[Member]) -> list[Job]:
        """What is left to do, the longest first."""
        if self.machine.mapping != "stack":
            jobs = [(member,) for member in members]
        else:
            groups: dict[Any, list[Member]] = defaultdict(list)
            for member in members:
                # On disk each member has an order of its own, and reads for itself.
                on_disk = isinstance(self.dataset(member.values).train, Records)
                groups[member.name if on_disk else stack_key(member.values)].append(member)
            parts = len(self.machine.devices)
            jobs = [
                tuple(group[first::parts])
                for group in groups.values()
                for first in range(min(parts, len(group)))
            ]
        return sorted(jobs, key=lambda job: -sum(map(_work, job)))

    def _train(self, job: Job, device: Device, signals: Signals, report: Report) -> None:
        """Trains and finishes runs together, or in several goes where they are not equally far."""
        settings = Settings(**section(job[0].values, "train"))
        goes: dict[int, list[tuple[Member, Journal]]] = defaultdict(list)
        for member in job:
            journal = self._open(member)
            report(journal.step * settings.batch_size, math.nan)
            goes[journal.step].append((member, journal))
        for together in goes.values():
            members, journals = zip(*together, strict=True)
            dataset = self.dataset(members[0].values)
            data = self._on_device(members[0].values, device)
            outcomes = trainer.fit_stack(
                self.as_stack(members), dataset, data, settings, journals,
                signals=signals, report=report,
            )  # fmt: skip
            for member, outcome in zip(members, outcomes, strict=True):
                if isinstance(outcome, Failed):
                    self.failures[member.name] = outcome.reason
                else:
                    self._finish(member, outcome)

    def _open(self, member: Member) -> Journal:
        algorithm = self.program(member.values).experiment.algorithm
        first = stacked_runs.first_state(algorithm.init, jax.random.key(member.values[SEED]))
        keep_all = member.values["train.keep_checkpoints"]
        about, pictures = runs.about(member.values), self._pictures_of(member.values)
        return Journal(
            self.folder / member.name, first, keep_all=keep_all, about=about, pictures=pictures
        )

    def _pictures_of(self, values: Values) -> Pictures | None:
        """One program for all runs whose parameters have the same shapes."""
        key = (*_program_key(values), values["train.tensorboard"], values["train.wandb"])
        if key not in self._pictures:
            self._pictures[key] = runs.pictures_of(self.program(values).experiment, values)
        return self._pictures[key]

    def _on_device(self, values: Values, device: Device) -> Data:
        """A data set's training part, one copy a device."""
        key = (data_key(values), device)
        if key not in self._copies:
            self._copies[key] = streaming.on_device(self.dataset(values).train, device)
        return self._copies[key]

    def _finish(self, member: Member, trained: Trained) -> None:
        experiment, _, score = self.program(member.values)
        with self._finishing:
            runs.finish(experiment, score, trained, member.values, self.folder / member.name)

    def as_stack(self, job: Job) -> stacked_runs.Stack:
        """A job's runs as one program; those of several must have one `stack_key`."""
        programs = [self.program(member.values) for member in job]
        keys = [jax.random.key(member.values[SEED]) for member in job]
        if len(job) == 1:
            experiment, advance, score = programs[0]
            return stacked_runs.alone(experiment.algorithm, advance, score, keys[0])
        largest = max((member.values for member in job), key=lambda v: v[LATENTS])
        dataset, vae, _ = self.program(largest).experiment

        def algorithm_of(step_size: Array, wrap: stacked_runs.Wrap) -> Algorithm:
            optimizer = wrap(build_optimizer(largest, step_size))
            return build_algorithm(largest, vae, len(dataset.train), optimizer)

        return stacked_runs.stacked(
            [program.experiment.algorithm.init for program in programs],
            [member.values[STEP_SIZE] for member in job],
            keys,
            vae,
            algorithm_of,
            dataset.preprocess,
            batch_size=largest["train.batch_size"],
        )


def _without(values: Values, *names: str) -> tuple[Any, ...]:
    """What is left of a config, as a key."""
    return tuple((k, v) for k, v in values.items() if k not in (*names, *WITHOUT_EFFECT))


def _program_key(values: Values) -> tuple[Any, ...]:
    return _without(values, SEED)


def stack_key(values: Values) -> tuple[Any, ...]:
    """Of runs that can be stacked: alike but in their seeds, step sizes and, if that can be padded,
    latents."""
    padded = (
        values["algorithm.name"] in ALGORITHMS_TO_PAD
        and values["model.guide"] in GUIDES_TO_PAD
        and values["model.prior"] == "standard_normal"
    )
    return _without(values, SEED, STEP_SIZE, *([LATENTS] if padded else []))


def _work(member: Member) -> float:
    """Of a member, beside others."""
    return member.num_examples * (sum(member.values["model.hidden"]) + member.values[LATENTS])
