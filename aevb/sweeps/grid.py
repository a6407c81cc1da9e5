"""What a sweep consists of: a product over fields, and the runs that it comes to.

An experiment's file declares one by `get_sweep()`, a dictionary from fields to their values:

    {"model.num_latents": (2, 5), "optimizer.step_size": best_of(0.01, 0.1), "seed": (0, 1, 2)}

Like `config` it imports neither jax nor numpy, so that a mistake is answered at once.
"""

import ast
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aevb.config import FIELDS, Config, Values, validate, with_values
from aevb.errors import UserError

SEED = "seed"
LENGTH = "train.num_examples"
MAPPINGS = (
    "sequence",
    "devices",
    "stack",
)  # of runs onto the hardware; see `workshop`
LAUNCHERS = ("slurm", "local")  # of runs as jobs; see `launch`


class Choice(NamedTuple):
    """An axis of which the runs get one value, the best of a short trial at the others' values."""

    values: tuple[Any, ...]
    num_examples: int  # of the trial


def best_of(*values: Any, num_examples: int = 100_000) -> Choice:
    """The value of the highest training bound after so many examples, as the paper chooses.

    Section 5: "stepsizes were chosen ... based on performance on the training set in the first
    few iterations". Each trial is a run of the first seed.
    """
    return Choice(values, num_examples)


Axes = Mapping[str, tuple[Any, ...] | Choice]  # of a product; the last one varies fastest


class Member(NamedTuple):
    """One run of a sweep."""

    name: str  # of its folder in the sweep's
    setting: Mapping[str, Any]  # its values on the axes
    values: Values  # its whole config, validated

    @property
    def num_examples(self) -> int:
        """That it is trained on, in whole minibatches."""
        batch_size = self.values["train.batch_size"]
        return self.values["train.num_examples"] // batch_size * batch_size


class Trial(NamedTuple):
    """The runs among which an axis of choice is decided, for one setting of the other axes."""

    setting: Mapping[str, Any]  # of the other axes but the seed
    members: tuple[Member, ...]  # one for each combination of what is to be chosen


class Plan(NamedTuple):
    """A sweep: its axes, and the config in which they are set."""

    config: Config
    axes: Axes

    @property
    def choices(self) -> dict[str, Choice]:
        return {name: axis for name, axis in self.axes.items() if isinstance(axis, Choice)}

    def trials(self) -> list[Trial]:
        """What is to be run before `members` is known; none where there is nothing to choose.

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
        """The runs of the sweep.

        Args:
            chosen: for each of the trials, in their order, the values of the best.

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
        """A run named after its setting; what was chosen for it is not in the name."""
        whole = {**setting, **(chosen or {})}
        name = ",".join(f"{field}={_plain(value)}" for field, value in setting.items())
        values = validate(with_values(self.config, whole))
        return Member(str(Path(folder) / (name or "run")), whole, values)


def make_plan(config: Config, axes: Axes) -> Plan:
    """A sweep, once all that can be known to be wrong with it is refused.

    Args:
        config: of the experiment.
        axes: as `get_sweep()` returns them.

    Raises:
        UserError: names the axis and what is wrong with it.
    """
    names = [field.name for field in FIELDS]
    for name, axis in axes.items():
        values = axis.values if isinstance(axis, Choice) else axis
        if name not in names:
            raise UserError(f"the sweep has the axis {name!r}; --help lists the fields")
        if not isinstance(values, tuple) or not values:
            raise UserError(f"the sweep's axis {name} is {values!r}; it must be a tuple of values")
        if len(set(values)) < len(values):
            raise UserError(f"the sweep's axis {name} is {values!r}, which has a value twice")
        if name == SEED and isinstance(axis, Choice):
            raise UserError("the sweep's axis seed is a choice; no seed is better than another")
    if not axes:
        raise UserError(
            "the sweep has no axis; declare some in get_sweep() of the experiment's file, or give "
            "--axis=FIELD=VALUE,VALUE"
        )
    plan = Plan(config, axes)
    first = {name: choice.values[0] for name, choice in plan.choices.items()}
    plan.members([first] * len(plan.trials()))  # each value of each axis, once, through `validate`
    return plan


def parse_axis(text: str) -> tuple[str, tuple[Any, ...]]:
    """FIELD=VALUE,VALUE -> the field and its values.

    Raises:
        UserError: it is not of this form, or there is no such field.
    """
    name, equals, values = text.partition("=")
    fields = {field.name: field for field in FIELDS}
    if not equals or not values:
        raise UserError(f"--axis={text} is not of the form FIELD=VALUE,VALUE, such as seed=0,1,2")
    if name not in fields:
        raise UserError(f"--axis={text} names {name!r}, which is no field; --help lists them")
    kind = type(fields[name].default)
    try:
        if kind is str:
            return name, tuple(values.split(","))
        parsed = ast.literal_eval(f"({values},)")
    except (SyntaxError, ValueError) as error:
        raise UserError(f"--axis={text} has values that are no {kind.__name__}") from error
    return name, tuple(float(v) if kind is float and type(v) is int else v for v in parsed)


def parse_option(text: str) -> tuple[str, Any]:
    """OPTION=VALUE of `sbatch` -> the two; its values are numbers, where they can be read as such.

    Raises:
        UserError: it is not of this form.
    """
    name, equals, value = text.partition("=")
    if not name or not equals or not value:
        raise UserError(f"--slurm={text} is not of the form OPTION=VALUE, such as partition=gpu")
    return name.replace("-", "_"), int(value) if value.isdecimal() else value


def _plain(value: Any) -> str:
    """For the name of a folder: (200, 100) -> 200x100."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
