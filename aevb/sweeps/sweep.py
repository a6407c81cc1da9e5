"""Runs a sweep in its folder, on devices or as jobs, and writes its results."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from aevb import runs
from aevb.config import Values
from aevb.errors import Interrupted, UserError
from aevb.evaluation.bits import UNITS
from aevb.evaluation.intervals import mean_interval
from aevb.reports import comparison
from aevb.runtime.run_lock import owned, writing
from aevb.runtime.signals import Signals
from aevb.storage.metrics_log import (
    Report,
    curve,
    progress_bar,
    read_records,
    read_with_digest,
    reporter,
    write_json,
    write_with_digest,
)
from aevb.sweeps.devices import DeviceTrainer, Machine
from aevb.sweeps.grid import SEED, Member, Plan, Trial, difference
from aevb.sweeps.jobs import Launcher
from aevb.sweeps.outcomes import summary_of

PLAN = "plan.json"


class Trainer(Protocol):
    """An object that trains members of a sweep, each in its folder."""

    mapping: str  # how the runs are mapped onto the hardware
    devices: Sequence[str]  # the devices, if they are known
    failures: dict[str, str]  # name of a member -> why it has no summary

    def describe(self) -> str:
        """Returns a line that describes the mapping, for the terminal."""
        ...

    def check(self, values: Values) -> None:
        """Raises a UserError if a config cannot be trained."""
        ...

    def run(self, members: Sequence[Member], signals: Signals, report: Report) -> None:
        """Trains and finishes the members that are not yet finished.

        Raises:
            UserError: a folder cannot be used.
            Interrupted: a signal was received.
        """
        ...


def run(
    plan: Plan,
    folder: Path,
    mapping: str = "auto",
    *,
    launcher: str = "",
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Runs the unfinished members of a sweep; returns all results, as they are in sweep.json.

    Args:
        mapping: one of `grid.MAPPINGS`, or "auto" for the fastest, onto this process's devices.
        launcher: one of `grid.LAUNCHERS`, which makes each run a separate job, or "".
        options: options of the jobs, as `jobs.Launcher` takes them.

    Raises:
        UserError: an error that the user can correct, found before any run starts.
        Interrupted: one of `signals.CAUGHT` was received; everything is saved.
    """
    if (folder / "config.json").exists():
        raise UserError(f"--workdir={folder} holds a single run; name another folder for a sweep")
    _refuse_another(plan, folder)
    trials = plan.trials()
    anyhow = plan.members([_chosen(plan, trial.members[0]) for trial in trials])
    tried = [member for trial in trials for member in trial.members]
    _require_validation(plan, tried)
    for member in tried if trials else anyhow:  # with trials, the members are not yet known
        summary_of(folder, member)
    trainer: Trainer = (
        Launcher(folder, launcher, options or {})
        if launcher
        else DeviceTrainer(folder, Machine(mapping, len(anyhow)))
    )
    for member in tried + anyhow:
        trainer.check(member.values)
    print(f"sweep: {folder}, {len(anyhow)} runs\n{trainer.describe()}", flush=True)
    total = sum(member.num_examples for member in tried + anyhow)
    with owned(folder), Signals() as signals, progress_bar(total, 0) as bar:
        report = reporter(bar)
        with writing(folder):
            write_with_digest(folder / PLAN, plan.described())
        try:
            trainer.run(tried, signals, report)
            outcomes = [_outcome(plan, folder, trial) for trial in trials]
            members = plan.members([outcome["chosen"] for outcome in outcomes])
            trainer.run(members, signals, report)
        except Interrupted as stop:
            raise Interrupted(stop.received, int(bar.n)) from stop
    result = {
        "mapping": trainer.mapping,
        "devices": list(trainer.devices),
        "trials": outcomes,
        "rows": _rows(members, folder, trainer.failures),
    }
    with writing(folder):
        _draw(members, folder)
        write_json(folder / "sweep.json", result)
        _compare(members, folder)
    return result


def _refuse_another(plan: Plan, folder: Path) -> None:
    """Raises a UserError if a folder holds another sweep, whose results would be overwritten."""
    if not (folder / PLAN).exists():
        return
    try:
        stored = read_with_digest(folder / PLAN)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / PLAN} cannot be read ({error}), by which the sweep is known; delete it if "
            "the sweep in this folder is the one of this command, or name another folder"
        ) from error
    if words := difference(stored, plan.described()):
        raise UserError(
            f"--workdir={folder} holds another sweep: {words}; name another folder, or give all of "
            "its values, to which more can be added"
        )


def _outcome(plan: Plan, folder: Path, trial: Trial) -> dict[str, Any]:
    """Returns a trial's criterion, its value for each member, and the best member's values."""
    summaries = [summary_of(folder, member) for member in trial.members]
    if _is_by_validation(plan):
        by = "valid_bound"
    else:
        has_objective = any("train_objective" in found for found in summaries)
        by = "train_objective" if has_objective else "train_bound"
    choices = [_chosen(plan, member) for member in trial.members]
    values = [found.get(by) for found in summaries]
    comparable = [-math.inf if value is None else value for value in values]
    best = comparable.index(max(comparable))
    tried = [{**choice, by: value} for choice, value in zip(choices, values, strict=True)]
    return {"setting": dict(trial.setting), "by": by, "tried": tried, "chosen": choices[best]}


def _require_validation(plan: Plan, tried: Sequence[Member]) -> None:
    """Raises a UserError if a plan chooses by validation data, of which a trial has none."""
    if _is_by_validation(plan) and any(not one.values["data.num_valid"] for one in tried):
        raise UserError(
            "the sweep chooses by the validation bound, and there are no validation data; set "
            "config.data.num_valid above 0"
        )


def _is_by_validation(plan: Plan) -> bool:
    return any(choice.by == "valid" for choice in plan.choices.values())


def _chosen(plan: Plan, member: Member) -> dict[str, Any]:
    """Returns a member's values on the `Choice` axes."""
    return {name: member.setting[name] for name in plan.choices}


def _by_setting(members: Sequence[Member]) -> Iterator[tuple[dict[str, Any], list[Member]]]:
    """Yields each setting without the seed, and the members of that setting."""

    def setting(member: Member) -> dict[str, Any]:
        return {name: value for name, value in member.setting.items() if name != SEED}

    unique = [dict(items) for items in dict.fromkeys(tuple(setting(m).items()) for m in members)]
    for wanted in unique:
        yield wanted, [member for member in members if setting(member) == wanted]


def _rows(
    members: Sequence[Member], folder: Path, failures: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Returns a row for each setting, with means and 95 % intervals over the seeds."""
    rows = []
    for setting, alike in _by_setting(members):
        outcomes = [summary for member in alike if (summary := summary_of(folder, member))]
        columns = [
            f"{split}_{unit}"
            for unit in ("bound", *UNITS)
            for split in ("train", "valid", "test", "best_test")
        ]
        rows.append(
            {
                "setting": setting,
                "seeds": len(outcomes),
                **{
                    column: {**mean_interval(values)._asdict(), "values": values}
                    for column in columns
                    if (values := [summary[column] for summary in outcomes if column in summary])
                },
                "failed": {
                    member.name: failures[member.name]
                    for member in alike
                    if member.name in failures
                },
            }
        )
    return rows


def _compare(members: Sequence[Member], folder: Path) -> None:
    """Writes the page that compares the runs, unless none is finished."""
    begun = [
        folder / member.name for member in members if (folder / member.name / runs.CONFIG).exists()
    ]
    if any(summary_of(folder, member) for member in members):
        comparison.write(comparison.compare(begun), folder / comparison.COMPARISON)


def _draw(members: Sequence[Member], folder: Path) -> None:
    """Draws sweep.png: the bounds during training, one panel per setting and one line per seed."""
    from aevb.reports import figures

    panels = {}
    for setting, alike in _by_setting(members):
        logs = [read_records(folder / member.name / "metrics.jsonl") for member in alike]
        if curves := [curve(records) for records in logs if records]:
            settings = [f"{name.rpartition('.')[2]} = {value}" for name, value in setting.items()]
            panels[", ".join(settings)] = curves
    if panels:
        figures.save(figures.bound_curves(panels), str(folder / "sweep.png"))
