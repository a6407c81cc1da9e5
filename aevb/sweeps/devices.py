"""Trains a sweep's runs on the devices of this process.

There are three mappings; `choose_mapping` returns the one that was measured to be the fastest:

- sequence: one run after the other, each on all cores;
- devices: one run on each device at a time, where each CPU core is a device;
- stack: one program for each device, with the runs' arrays stacked
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
from aevb.building.entries import make_entry
from aevb.config import LATENTS, WITHOUT_EFFECT, Values, entry_of, total_latents
from aevb.data.identity import identity
from aevb.data.io.array_records import Records
from aevb.errors import Interrupted
from aevb.evaluation import elbo
from aevb.experiment import (
    Experiment,
    Loader,
    build,
    build_algorithm,
    build_optimizer,
    data_key,
)
from aevb.guides import Sizes
from aevb.losses import COUNT_UNUSED_UNITS
from aevb.runtime import xla
from aevb.runtime.signals import Signals
from aevb.storage.metrics_log import Report
from aevb.storage.trackers import Pictures
from aevb.sweeps.grid import SEED, Member
from aevb.training import loop, stacked_runs, streaming, trainer
from aevb.training.journal import Journal
from aevb.training.settings import Settings
from aevb.training.streaming import Data
from aevb.training.trainer import DivergedError, Run, Trained

STEP_SIZE = "optimizer.step_size"
ONE_THREAD = {"xla_cpu_multi_thread_eigen": False}


Device = Any  # a jax.Device, which the type checker does not accept as a type
Job = tuple[Member, ...]  # runs that train together; a single run unless the mapping is stack


class Program(NamedTuple):
    """The objects that are shared by runs whose configs differ only in the seed."""

    experiment: Experiment
    advance: loop.Program
    score: elbo.Scorer


class Machine:
    """The devices and the mapping of runs onto them."""

    def __init__(self, mapping: str, num_runs: int):
        """Chooses the mapping and the devices.

        For the mapping `devices` on a CPU, each core becomes a JAX device, if JAX has not yet been
        initialized.
        """
        cores = xla.num_cores()
        on_cpu = choose_mapping(cores, num_runs, on_cpu=True) if mapping == "auto" else mapping
        if on_cpu == "devices":  # otherwise JAX has one CPU device that uses all cores
            with contextlib.suppress(RuntimeError):  # JAX is initialized already; keep its devices
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
    """Returns the mapping that was measured to be the fastest; docs/speed.md has the numbers.

    On an accelerator that is a stack, which uses the device better than one run. On a CPU core the
    batched products of a stack are slower than the same products one by one, and runs on separate
    cores do not slow each other down.
    """
    if num_runs == 1:
        return "sequence"
    if not on_cpu:
        return "stack"
    return "devices" if 2 * num_runs >= num_devices > 1 else "sequence"


class DeviceTrainer:
    """The trainer of a sweep's members on the devices of this process."""

    def __init__(self, folder: Path, machine: Machine):
        xla.use_cache()
        self.folder, self.machine = folder, machine
        self.mapping = machine.mapping
        self.devices: Sequence[str] = [str(device) for device in machine.devices]
        self.failures: dict[str, str] = {}  # name of a member -> why it has no summary
        self._programs: dict[tuple[Any, ...], Program] = {}
        self._pictures: dict[tuple[Any, ...], Pictures | None] = {}
        self.dataset = Loader()
        self._identities: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._copies: dict[tuple[Any, ...], Data] = {}
        self._finishing = threading.Lock()  # matplotlib is not thread-safe

    def describe(self) -> str:
        """Returns a line that describes the mapping of the runs."""
        return self.machine.describe()

    def check(self, values: Values) -> None:
        """Raises a UserError if a config is inconsistent, or something it names is missing."""
        runs.require_trackers(values)
        self.program(values)

    def program(self, values: Values) -> Program:
        """Returns the program that a config's runs share; builds it on the first call."""
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
            score = runs.score_of(experiment)
            self._programs[key] = Program(experiment, program, score)
        return self._programs[key]

    def identity(self, values: Values) -> dict[str, Any]:
        """Returns the identity of a config's data, which runs with the same data share."""
        key = data_key(values)
        if key not in self._identities:
            self._identities[key] = identity(self.dataset(values))
        return self._identities[key]

    def run(self, members: Sequence[Member], signals: Signals, report: Report) -> None:
        """Trains and finishes the members that are not yet finished.

        Raises:
            UserError: a folder cannot be used.
            Interrupted: a signal was received.
        """
        with contextlib.ExitStack() as held:
            todo = []
            for member in members:
                folder, data = self.folder / member.name, self.identity(member.values)
                claim = runs.claimed(folder, member.values, data)
                finished = runs.inspect(folder, member.values)
                finished = finished and runs.inspect(folder, member.values, data)
                if finished or held.enter_context(claim):
                    report(member.num_examples, math.nan)
                else:
                    todo.append(member)
            self._train_all(self._jobs(todo), signals, report)

    def _train_all(self, waiting: list[Job], signals: Signals, report: Report) -> None:
        """Trains all jobs; each device takes the next waiting job when it is free.

        Args:
            waiting: the jobs, the longest first; they are removed as they are started.
        """
        compiled: dict[Device, set[Any]] = defaultdict(set)  # programs, by device
        errors: list[BaseException] = []
        lock = threading.Lock()

        def report_in_turn(examples: int, bound: float) -> None:
            with lock:
                report(examples, bound)

        def next_job(device: Device) -> Job | None:
            """Removes and returns the next job, or returns None if none is left.

            Jobs whose program is compiled on this device come first, then those whose program is
            compiled nowhere, then the rest. Among equals the longest job comes first.
            """
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
                except BaseException as error:  # raised again in the main thread
                    errors.append(error)
                    signals.stop()  # makes the other threads save and stop

        if len(self.machine.devices) == 1:
            work(self.machine.devices[0])
        else:
            threads = [
                threading.Thread(target=work, args=(device,)) for device in self.machine.devices
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():  # signal handlers run between two waits
                    thread.join(timeout=0.2)
        for error in sorted(errors, key=lambda error: isinstance(error, Interrupted)):
            raise error
        if signals.received:
            raise Interrupted(signals.received, 0)

    def _jobs(self, members: Sequence[Member]) -> list[Job]:
        """Groups unfinished members into jobs and returns them, the longest first."""
        if self.machine.mapping != "stack":
            jobs = [(member,) for member in members]
        else:
            groups: dict[Any, list[Member]] = defaultdict(list)
            for member in members:
                # With data on disk each member reads its own blocks, so it is not stacked. Nor is
                # one with labels, whose algorithm holds them.
                on_disk = isinstance(self.dataset(member.values).train, Records)
                is_alone = on_disk or member.values["model.labels"]
                groups[member.name if is_alone else stack_key(member.values)].append(member)
            parts = len(self.machine.devices)
            jobs = [
                tuple(group[first::parts])
                for group in groups.values()
                for first in range(min(parts, len(group)))
            ]
        return sorted(jobs, key=lambda job: -sum(map(_work, job)))

    def _train(self, job: Job, device: Device, signals: Signals, report: Report) -> None:
        """Trains and finishes the runs of a job, one stack per step at which they resume."""
        settings = runs.settings_of(job[0].values)
        at_step: dict[int, list[tuple[Member, Journal]]] = defaultdict(list)
        for member in job:
            journal = self._open(member)
            report(journal.step * settings.batch_size, math.nan)
            at_step[journal.step].append((member, journal))
        for members in at_step.values():
            if len(members) == 1:
                trained = self._train_single(*members[0], settings, device, signals, report)
                outcomes = [(members[0][0], trained)]
            else:
                outcomes = self._train_stack(members, settings, device, signals, report)
            for member, outcome in outcomes:
                if isinstance(outcome, DivergedError):
                    self.failures[member.name] = str(outcome)
                else:
                    self._finish(member, outcome)

    def _train_single(
        self,
        member: Member,
        journal: Journal,
        settings: Settings,
        device: Device,
        signals: Signals,
        report: Report,
    ) -> Trained | DivergedError:
        """Trains one run."""
        program, run = self.program(member.values).advance, self.as_run(member)
        data = self._on_device(member.values, device)
        keys = loop.run_keys(run.key).loop
        steps, state = loop.prepare(program, keys, data, journal.state, settings.batch_size)
        try:
            return trainer.train(
                run, steps, state, settings, journal, signals=signals, report=report
            )
        except DivergedError as error:
            return error

    def _train_stack(
        self,
        members: Sequence[tuple[Member, Journal]],
        settings: Settings,
        device: Device,
        signals: Signals,
        report: Report,
    ) -> list[tuple[Member, Trained | DivergedError]]:
        """Trains runs that are at the same step in one program."""
        job, journals = zip(*members, strict=True)
        stack = self.as_stack(job)
        data = self._on_device(job[0].values, device)
        state = stack.join([journal.state for journal in journals])
        steps, state = loop.prepare(stack.program, stack.keys, data, state, settings.batch_size)
        outcomes = stacked_runs.train(
            stack, steps, state, settings, journals, signals=signals, report=report
        )
        return list(zip(job, outcomes, strict=True))

    def _open(self, member: Member) -> Journal:
        algorithm = self.program(member.values).experiment.algorithm
        first = loop.first_state(algorithm.init, jax.random.key(member.values[SEED]))
        about = runs.about(member.values, self.identity(member.values))
        pictures = self._pictures_of(member.values)
        return runs.open_journal(self.folder / member.name, first, member.values, about, pictures)

    def _pictures_of(self, values: Values) -> Pictures | None:
        """Returns the function that draws a run's images; runs with the same program share it."""
        key = (*_program_key(values), values["train.tensorboard"], values["train.wandb"])
        if key not in self._pictures:
            self._pictures[key] = runs.pictures_of(self.program(values).experiment, values)
        return self._pictures[key]

    def _on_device(self, values: Values, device: Device) -> Data:
        """Returns the training split of the dataset on a device; each device has one copy."""
        key = (data_key(values), device)
        if key not in self._copies:
            self._copies[key] = streaming.on_device(self.dataset(values).train, device)
        return self._copies[key]

    def _finish(self, member: Member, trained: Trained) -> None:
        experiment, _, score = self.program(member.values)
        with self._finishing:
            runs.finish(experiment, score, trained, member.values, self.folder / member.name)

    def as_run(self, member: Member) -> Run:
        """Returns a member as a `Run` of the trainer."""
        experiment, _, score = self.program(member.values)
        key = jax.random.key(member.values[SEED])
        return Run(experiment.algorithm, experiment.dataset, score, key)

    def as_stack(self, job: Job) -> stacked_runs.Stack:
        """Returns a job's runs as a stack; all runs must have the same `stack_key`."""
        programs = [self.program(member.values) for member in job]
        keys = [jax.random.key(member.values[SEED]) for member in job]
        largest = max((member.values for member in job), key=total_latents)
        dataset, vae, _ = self.program(largest).experiment

        def algorithm_of(step_size: Array, wrap: stacked_runs.Wrap) -> Algorithm:
            num_data = len(dataset.train)
            optimizer = wrap(build_optimizer(largest, num_data, step_size))
            return build_algorithm(largest, vae, num_data, optimizer)

        return stacked_runs.stacked(
            [program.experiment.algorithm.init for program in programs],
            [member.values[STEP_SIZE] for member in job],
            keys,
            vae,
            algorithm_of,
            dataset,
            num_latents=[total_latents(member.values) for member in job],
            batch_size=largest["train.batch_size"],
        )


def _without(values: Values, *names: str) -> tuple[Any, ...]:
    """Returns a dict key: the config without some fields, and without those of no effect."""
    return tuple((k, v) for k, v in values.items() if k not in (*names, *WITHOUT_EFFECT))


def _program_key(values: Values) -> tuple[Any, ...]:
    return _without(values, SEED)


def stack_key(values: Values) -> tuple[Any, ...]:
    """Returns a key that is equal for runs that can be stacked.

    Such runs differ only in the seed, the step size and, if the latents can be padded, the number
    of latents.
    """
    padded = (
        isinstance(values[LATENTS], int)
        and not values["model.dynamics"]
        and entry_of(values, "algorithm.name").can_pad
        and make_entry(values, "model.guide", Sizes(values[LATENTS])).nests
        and values["model.prior"] == "standard_normal"
        and values["algorithm.bound"] not in COUNT_UNUSED_UNITS
    )
    return _without(values, SEED, STEP_SIZE, *([LATENTS] if padded else []))


def _work(member: Member) -> float:
    """Returns the relative cost of a sweep member, used to start the longest first."""
    units = sum(member.values["model.hidden"]) + total_latents(member.values)
    return member.num_examples * units
