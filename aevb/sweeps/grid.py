"""The grid of a sweep: a product over the values of config fields, and the runs in it.

An experiment's file declares a sweep by `get_sweep()`, a dictionary from fields to their values:

    {"model.num_latents": (2, 5), "optimizer.step_size": best_of(0.01, 0.1), "seed": (0, 1, 2)}

Like `config`, this module imports neither jax nor numpy, so that mistakes are reported quickly.
"""

import ast
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aevb.config import (
    DEFAULTS,
    WITHOUT_EFFECT,
    Config,
    Values,
    flatten,
    has_path,
    is_field,
    validate,
    with_values,
)
from aevb.errors import UserError
from aevb.runtime.checksums import as_read_back

SEED = "seed"
LENGTH = "train.num_examples"
MAPPINGS = (
    "sequence",
    "devices",
    "stack",
)  # of runs onto the hardware; see `devices`
LAUNCHERS = ("slurm", "local")  # of runs as jobs; see `jobs`


class Choice(NamedTuple):
    """An axis whose value is chosen by short trial runs, for each setting of the other axes."""

    values: tuple[Any, ...]
    num_examples: int  # training examples of each trial run
    by: str  # one of BY


BY = ("train", "valid")


def best_of(*values: Any, num_examples: int = 100_000, by: str = "train") -> Choice:
    """Returns an axis that takes the best of the values in trial runs of `num_examples`.

    By "train", the best is the one with the highest objective of the algorithm on the training
    data, which is the bound of the model unless the algorithm has another (`Algorithm.objective`).
    The paper chooses the step size in this way; section 5: "stepsizes were chosen ... based on
    performance on the training set in the first few iterations". By "valid", it is the one with the
    highest bound on the validation data. The trial runs use the first seed.
    """
    return Choice(values, num_examples, by)


Axes = Mapping[str, tuple[Any, ...] | Choice]  # axes of the product; the last varies fastest


class Member(NamedTuple):
    """One run of a sweep."""

    name: str  # path of its folder inside the sweep's folder
    setting: Mapping[str, Any]  # its values on the axes
    values: Values  # its complete config, validated

    @property
    def num_examples(self) -> int:
        """The number of training examples, in complete minibatches."""
        batch_size = self.values["train.batch_size"]
        return self.values["train.num_examples"] // batch_size * batch_size


class Trial(NamedTuple):
    """The runs that choose the values of the `Choice` axes, for one setting of the other axes."""

    setting: Mapping[str, Any]  # values on the other axes except the seed
    members: tuple[Member, ...]  # one for each combination of values on the `Choice` axes


class Plan(NamedTuple):
    """A sweep: its axes, and the config whose fields they replace."""

    config: Config
    axes: Axes
    entries: str = ""  # the digest of the experiment's file, if that brings entries

    @property
    def choices(self) -> dict[str, Choice]:
        return {name: axis for name, axis in self.axes.items() if isinstance(axis, Choice)}

    def described(self) -> dict[str, Any]:
        """Returns the axes and the other fields of the config, as JSON content."""
        axes = {
            name: axis._asdict() if isinstance(axis, Choice) else {"values": axis}
            for name, axis in self.axes.items()
        }
        left_out = [*axes, *WITHOUT_EFFECT]
        if has_path(self.config.data.name):  # each run knows its data by their digest
            left_out.append("data.name")
        fields = {k: v for k, v in flatten(self.config).items() if k not in left_out}
        return as_read_back({"axes": axes, "config": fields, "entries": self.entries})

    def trials(self) -> list[Trial]:
        """Returns the trials that must run before `members`; none if there is no `Choice` axis.

        Raises:
            UserError: a value is refused.
        """
        if not self.choices:
            return []
        seeds = self.axes.get(SEED, (self.config.seed,))
        assert isinstance(seeds, tuple)
        wanted = max(choice.num_examples for choice in self.choices.values())
        fixed = {SEED: seeds[0], LENGTH: min(wanted, self.config.train.num_examples)}
        options = [
            dict(zip(self.choices, values, strict=True))
            for values in itertools.product(*(c.values for c in self.choices.values()))
        ]
        return [
            Trial(
                setting,
                tuple(
                    self._member(setting | fixed | option, folder="trials") for option in options
                ),
            )
            for setting in self._product(without=(SEED, *self.choices))
        ]

    def members(self, chosen: Sequence[Mapping[str, Any]] = ()) -> list[Member]:
        """Returns the runs of the sweep.

        Args:
            chosen: the values of the best member of each trial, in the order of `trials`.

        Raises:
            UserError: a value is refused.
        """
        found = {
            tuple(trial.setting.items()): values
            for trial, values in zip(self.trials(), chosen, strict=True)
        }
        members = []
        for setting in self._product(without=tuple(self.choices)):
            rest = tuple((name, value) for name, value in setting.items() if name != SEED)
            members.append(self._member(setting, found.get(rest, {})))
        return members

    def _product(self, *, without: tuple[str, ...]) -> list[dict[str, Any]]:
        axes: dict[str, Any] = {n: axis for n, axis in self.axes.items() if n not in without}
        return [
            dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
        ]

    def _member(
        self, setting: Mapping[str, Any], chosen: Mapping[str, Any] | None = None, folder: str = ""
    ) -> Member:
        """Returns a run named after its setting; chosen values are not part of the name."""
        whole = {**setting, **(chosen or {})}
        name = ",".join(f"{field}={_plain(value)}" for field, value in setting.items())
        values = validate(with_values(self.config, whole), self.entries)
        return Member(str(Path(folder) / (name or "run")), whole, values)


def make_plan(config: Config, axes: Axes, entries: str = "") -> Plan:
    """Checks the axes of a sweep and returns its plan.

    Args:
        config: the experiment's config.
        axes: as `get_sweep()` returns them.
        entries: the digest of the experiment's file, from `registry.bring`.

    Raises:
        UserError: an axis or one of its values is refused; the message names it and the reason.
    """
    for name, axis in axes.items():
        values = axis.values if isinstance(axis, Choice) else axis
        if not is_field(name):
            raise UserError(f"the sweep has the axis {name!r}; --help lists the fields")
        if not isinstance(values, tuple) or not values:
            raise UserError(f"the sweep's axis {name} is {values!r}; it must be a tuple of values")
        if len(set(values)) < len(values):
            raise UserError(f"the sweep's axis {name} is {values!r}, which has a value twice")
        if isinstance(axis, Choice) and axis.by not in BY:
            raise UserError(
                f"the sweep's axis {name} is chosen by {axis.by!r}; it must be one of "
                f"{', '.join(BY)}"
            )
        if name == SEED and isinstance(axis, Choice):
            raise UserError("the sweep's axis seed is a choice; no seed is better than another")
    if not axes:
        raise UserError(
            "the sweep has no axis; declare some in get_sweep() of the experiment's file, or give "
            "--axis=FIELD=VALUE,VALUE"
        )
    plan = Plan(config, axes, entries)
    first = {name: choice.values[0] for name, choice in plan.choices.items()}
    plan.members([first] * len(plan.trials()))  # validates each value of each axis
    return plan


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns the first difference between two plans in words, "" if the second holds the first.

    A plan may have more values on an axis than an earlier one, whose runs it then holds.

    Args:
        then, now: from `Plan.described`.
    """
    if then["entries"] != now["entries"]:
        return "another experiment's file brings its entries"
    if then["axes"].keys() != now["axes"].keys():
        return f"its axes are {', '.join(then['axes'])} there and {', '.join(now['axes'])} here"
    for name, axis in then["axes"].items():
        other = now["axes"][name]
        is_choice = "by" in axis or "by" in other
        if is_choice and axis != other:
            return f"the choice of {name} is {axis} there and {other} here"
        if missing := [value for value in axis["values"] if value not in other["values"]]:
            return f"{name} has the value {missing[0]!r} there and not here"
    for name in sorted(then["config"].keys() | now["config"].keys()):
        first, second = (found["config"].get(name) for found in (then, now))
        if first != second:
            return f"{name} is {first!r} there and {second!r} here"
    return ""


def parse_axis(text: str) -> tuple[str, tuple[Any, ...]]:
    """Parses FIELD=VALUE,VALUE into the field and its values.

    Raises:
        UserError: the text is not of this form, there is no such field, or a value has the wrong
            type.
    """
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise UserError(f"--axis={text} is not of the form FIELD=VALUE,VALUE, such as seed=0,1,2")
    if not is_field(name):
        raise UserError(f"--axis={text} names {name!r}, which is no field; --help lists them")
    is_option = name not in DEFAULTS  # the type of an option is not known here
    kind = type(DEFAULTS.get(name))
    try:
        if kind is str:
            return name, tuple(values.split(","))
        parsed = ast.literal_eval(f"({values},)")
    except (SyntaxError, ValueError) as error:
        if is_option:
            return name, tuple(values.split(","))
        raise UserError(f"--axis={text} has values that are no {kind.__name__}") from error
    return name, tuple(float(v) if kind is float and type(v) is int else v for v in parsed)


def parse_option(text: str) -> tuple[str, Any]:
    """Parses OPTION=VALUE of `sbatch` into name and value; a value of digits becomes an int.

    Raises:
        UserError: the text is not of this form.
    """
    name, equals, value = text.partition("=")
    if not name or not equals or not value:
        raise UserError(f"--slurm={text} is not of the form OPTION=VALUE, such as partition=gpu")
    return name.replace("-", "_"), int(value) if value.isdecimal() else value


def _plain(value: Any) -> str:
    """Returns a value as text for a folder's name: (200, 100) -> 200x100."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
