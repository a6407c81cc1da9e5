"""Trains an experiment in its folder, or resumes it; --sweep trains several runs.

aevb run [--config=frey_faces] [--workdir=DIR] [--config.FIELD=VALUE ...] [--debug] \
[--init_from=RUN] [--tensorboard] [--sweep] [--axis=FIELD=VALUE,VALUE ...] [--mapping=NAME]

--config names an experiment of the package, or a file with get_config(). In a clone of the
repository, `python experiments/run.py --config=experiments/frey_faces.py` does the same. A file may
also have get_sweep() and get_entries(), which brings datasets, likelihoods, bounds and so on.

For a run in several processes, give this command in each of them with the same folder:
--coordinator is HOST:PORT of process 0, --num_processes their number, and --process_id the number
of this one, from 0. --coordinator=auto takes all three from SLURM or the TPU.

--debug lets JAX check for leaked tracers, and reports the source line of the first NaN or infinity.
It can also be given after a run has diverged, with the same --workdir.

--init_from=RUN starts from the last parameters of a finished run with the same model. To go on with
a finished run, give its command again with more --config.train.num_examples.

--tensorboard is short for --config.train.tensorboard=True: the run's folder gets TensorBoard event
files with the log, pictures at each evaluation, and the settings, for comparing runs.

--sweep trains a run for each combination of the values in get_sweep(). --axis adds or replaces an
axis; a field set by --config.FIELD is not an axis. --mapping says how the runs share the hardware:
one after the other (sequence), one on each device at a time (devices), or stacked into one program
(stack); by default, it is the one that was measured to be the fastest. --launcher=slurm submits a
SLURM job for each run, with options of sbatch by --slurm=OPTION=VALUE; --launcher=local starts a
process for each.
"""

import re
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from aevb import experiments, registry
from aevb.cli.common import reporting_mistakes
from aevb.config import WITHOUT_EFFECT, default_config, help_text, require_field, validate
from aevb.doctor.hints import Hint, text
from aevb.errors import UserError
from aevb.evaluation.bits import UNITS
from aevb.sweeps.grid import LAUNCHERS, MAPPINGS, Plan, make_plan, parse_axis, parse_option

CONFIG_IS_MISSING = "--config is missing; try --config=experiments/frey_faces.py"
HELP = {"--help", "-help", "-h", "--helpfull", "--helpshort"}
NO_BITS = (
    "p(x|z) is a density, which has no bits/dim; likelihoods of levels (discretized_logistic) and "
    "config.data.dequantize=True have them"
)
LONGEST_NAME = 120  # characters of a folder's name; every file system allows as many


def define_flags(found: flags.FlagValues) -> None:
    """Adds the flags of `aevb run` except --config, which `parse` adds."""
    flags.DEFINE_string(
        "workdir",
        "",
        "The run's folder; the default is runs/<experiment>/<overrides>.",
        found,
    )
    flags.DEFINE_bool("sweep", False, "Train the experiment's sweep, or that of --axis.", found)
    flags.DEFINE_multi_string(
        "axis",
        [],
        "FIELD=VALUE,VALUE: an axis of the sweep; can be repeated.",
        found,
    )
    flags.DEFINE_enum(
        "mapping",
        "auto",
        ("auto", *MAPPINGS),
        "How the runs of a sweep share the hardware.",
        found,
    )
    flags.DEFINE_enum(
        "launcher",
        "",
        ("", *LAUNCHERS),
        "Submit each run of a sweep as a job, to SLURM or to local processes.",
        found,
    )
    flags.DEFINE_multi_string(
        "slurm",
        [],
        "OPTION=VALUE of sbatch, such as partition=gpu; can be repeated.",
        found,
    )
    flags.DEFINE_string(
        "coordinator",
        "",
        "HOST:PORT of process 0 of several, or auto on SLURM and TPUs.",
        found,
    )
    flags.DEFINE_integer("num_processes", 1, "The number of processes.", 1, flag_values=found)
    flags.DEFINE_integer(
        "process_id", 0, "The number of this process, from 0.", 0, flag_values=found
    )
    flags.DEFINE_bool(
        "debug", False, "Check for leaked tracers, and find the source line of a NaN.", found
    )
    flags.DEFINE_string(
        "init_from", "", "The run whose parameters to start from; config.train.init_from.", found
    )
    flags.DEFINE_bool(
        "tensorboard",
        False,
        "Write TensorBoard event files; config.train.tensorboard=True.",
        found,
    )


def parse(
    arguments: Sequence[str],
    define: Callable[[flags.FlagValues], None] = define_flags,
    default: str = "",
) -> flags.FlagValues:
    """Returns the flags of a command line (sys.argv without the program), including --config.

    Each call has its own flags, so that a process can parse several command lines.

    Args:
        define: adds the command's other flags.
        default: the experiment that is used if --config is not given.

    Raises:
        UserError: a flag or field is unknown, a value has the wrong type, or the file is no config.
    """
    for argument in arguments:
        if field := re.match(r"--?config\.([\w.]+)", argument):
            require_field(field[1])
    flag_values = flags.FlagValues()
    define(flag_values)
    given = [sys.argv[0], *_with_files(arguments)]
    sys.modules.pop("config_config", None)  # otherwise ml_collections reuses the last config
    try:
        config_flags.DEFINE_config_file(
            "config",
            experiments.file_of(default) if default else None,
            "The experiment: a file, or the name of one of the package's experiments.",
            flag_values=flag_values,
            sys_argv=given,
            lock_config=False,  # the configs are locked, except for the options
            accept_new_attributes=True,
        )
        rest = flag_values(given)[1:]
        if flag_values.config is not None:
            flag_values.config.keys()  # raises the error if the file failed to load
    except AttributeError as error:
        words = " ".join(str(error).split())
        if "get_config" in words:
            raise UserError("--config names a file without get_config()") from error
        raise UserError(f"--config: {words} (--help lists the fields)") from error
    except (flags.Error, KeyError, TypeError, ValueError) as error:
        words = " ".join(str(error).split())
        raise UserError(f"{words} (--help lists flags and fields)") from error
    except Exception as error:  # any exception that the user's config file raises
        words = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"--config cannot be read: {words}; name a file with get_config(), such as "
            f"experiments/frey_faces.py, or one of {', '.join(experiments.names())}"
        ) from error
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag; settings are written --config.FIELD=VALUE")
    return flag_values


def _with_files(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with the name of an experiment replaced by its file."""
    found, is_config = [], False
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if is_config:
            argument = experiments.file_of(argument)
        is_config = flag in ("--config", "-config")
        if is_config and equals:
            argument, is_config = f"{flag}={experiments.file_of(value)}", False
        found.append(argument)
    return found


def default_workdir(given: flags.FlagValues) -> Path:
    """Returns runs/<experiment>/<name from the overrides that the user typed>."""
    holder = given["config"]
    experiment = Path(config_flags.get_config_filename(holder)).stem  # pyright: ignore[reportArgumentType]
    overrides = config_flags.get_override_values(holder)  # pyright: ignore[reportArgumentType]
    name = ",".join(
        f"{field}={value}"
        for field, value in sorted(overrides.items())
        if field not in WITHOUT_EFFECT
    )
    if given.sweep:
        name = ",".join(["sweep", *filter(None, [name]), *given.axis])
    name = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", name)[:LONGEST_NAME].strip("_")
    return Path("runs") / experiment / (name or "default")


def report(summary: dict[str, Any], folder: Path) -> str:
    """Returns a run's result as text for the terminal."""
    bits = {name: unit for name, unit in UNITS.items() if f"test_{name}" in summary}
    headers = "".join(f"  {unit}" for unit in bits.values())
    lines = [f"{'':6} {'bound (nats)':>12} {'std. error':>11}{headers}"]
    for split in ("train", "valid", "test"):
        if f"{split}_bound" not in summary:
            continue
        error = summary[f"{split}_bound_standard_error"]
        lines.append(
            f"{split:6} {summary[f'{split}_bound']:12.2f} "
            f"{'' if error is None else format(error, '11.2f'):>11}"
            + "".join(
                f"  {summary[f'{split}_{name}']:{len(unit)}.3f}" for name, unit in bits.items()
            )
        )
    if summary["data"]["kind"] == "grey" and not bits:
        lines.append(NO_BITS)
    if (best := summary.get("best_num_examples")) is not None:
        lines.append(
            f"the best checkpoint by the validation bound, after {best:,} examples, has "
            f"{summary['best_valid_bound']:.2f} on the validation and "
            f"{summary['best_test_bound']:.2f} on the test data"
        )
    if plane := summary.get("manifold"):
        near = plane["all"]
        lines.append(
            f"the pictures of the manifold are {near['distance']:.3f} per pixel from the nearest "
            f"image on average, a tenth of them more than {near['distance_90']:.3f}; "
            f"{near['num_nearest']} different images are the nearest"
        )
    speed = summary["examples_per_second"]
    lines.append(
        f"{summary['num_examples']:,} training examples in {summary['seconds']:.1f} s of training"
        + ("" if speed is None else f", {speed:,.0f} examples/s")
    )
    if skipped := summary.get("skipped_steps"):
        lines.append(f"{skipped:,} non-finite steps were skipped")
    lines += [text(Hint(**hint)) for hint in summary.get("hints", ())]
    lines += [str(picture) for picture in sorted((folder / "figures").glob("*.png"))]
    lines += [str(page) for page in folder.glob("explorer.html")]
    return "\n".join(lines)


def entries_of(given: flags.FlagValues) -> str:
    """Brings the entries of the experiment's file; returns their digest, "" if there are none."""
    return registry.bring(Path(config_flags.get_config_filename(given["config"])))  # pyright: ignore[reportArgumentType]


def declared_sweep(given: flags.FlagValues, entries: str = "") -> Plan:
    """Returns the sweep of the experiment's file, with the axes of the command line.

    Raises:
        UserError: there are no axes, or one is refused.
    """
    holder = given["config"]
    file = config_flags.get_config_filename(holder)  # pyright: ignore[reportArgumentType]
    overrides = config_flags.get_override_values(holder)  # pyright: ignore[reportArgumentType]
    declare = runpy.run_path(file).get("get_sweep", dict)
    axes = {name: axis for name, axis in declare().items() if name not in overrides}
    return make_plan(given.config, axes | dict(map(parse_axis, given.axis)), entries)


def sweep_table(result: dict[str, Any]) -> str:
    """Returns a sweep's results as a table for the terminal."""
    names = list(result["rows"][0]["setting"])
    titles = [name.rpartition(".")[2] for name in names]
    lines = []
    for trial in result["trials"]:
        setting = ", ".join(f"{name}={value}" for name, value in trial["setting"].items())
        tried = ", ".join(
            f"{' '.join(str(one[name]) for name in trial['chosen'])} "
            f"({'no number' if (found := one[trial['by']]) is None else format(found, '.1f')})"
            for one in trial["tried"]
        )
        chosen = ", ".join(f"{name}={value}" for name, value in trial["chosen"].items())
        lines.append(f"{setting or 'all'}: {chosen} by the {trial['by']}, of {tried}")
    header = [f"{title:>14}" for title in titles]
    splits = [
        split
        for split in ("train", "valid", "test")
        if any(f"{split}_bound" in row for row in result["rows"])
    ]
    titles = [f"{f'{split} bound':>18}" for split in splits]
    lines.append(" ".join([*header, *titles, "seeds"]))
    for row in result["rows"]:
        cells = [f"{row['setting'][name]!s:>14}" for name in names]
        for split in splits:
            cells.append(f"{_mean(row.get(f'{split}_bound')):>18}")
        lines.append(" ".join([*cells, f"{row['seeds']:>5}"]))
        lines += [f"  {name} failed: {reason}" for name, reason in row["failed"].items()]
    return "\n".join(lines)


def _mean(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return ""
    error = figure["half_width"]
    return f"{figure['mean']:.2f}" + ("" if error is None else f" +- {error:.2f}")


def main(arguments: Sequence[str], default: str = experiments.DEFAULT) -> int:
    """Runs `aevb run`; returns the exit status.

    It is 0 on success, 2 for a user's mistake, 3 if a run of a sweep failed, 4 if another process
    of the run has ended, and 128 + the number of a signal that was received.

    Args:
        default: the experiment to use without --config; '' makes --config required.
    """

    def body() -> int:
        given = parse([it for it in arguments if it not in HELP], default=default)
        if HELP & set(arguments):
            entries = entries_of(given) if given.config else ""
            fields = help_text(given.config or default_config(), entries)
            print(f"{__doc__}\nFields, with their values in this experiment:\n\n{fields}")
            return 0
        if given.config is None:
            raise UserError(CONFIG_IS_MISSING)
        if given.tensorboard:
            given.config.train.tensorboard = True
        if given.init_from:
            given.config.train.init_from = given.init_from
        check_flags(given)
        return train_sweep(given) if given.sweep else train_run(given)

    return reporting_mistakes(body)


def check_flags(given: flags.FlagValues) -> None:
    """Raises a UserError if flags do not fit together."""
    if given.sweep and given.coordinator:
        raise UserError("--coordinator is for a single run, without --sweep; leave one of them out")
    if given.sweep and given.debug:
        raise UserError(
            "--debug is for a single run, without --sweep; give it with the --workdir and the "
            "fields of the sweep's run that failed"
        )
    if given.slurm and given.launcher != "slurm":
        raise UserError("--slurm has options of SLURM jobs; give --launcher=slurm too")
    if given.launcher and given.mapping != "auto":
        raise UserError(
            "--mapping is for runs in one process, and --launcher makes each a job; leave one out"
        )
    if not given.sweep and (given.axis or given.mapping != "auto" or given.launcher):
        raise UserError("--axis, --mapping and --launcher are for a sweep; give --sweep too")


def folder_of(given: flags.FlagValues) -> Path:
    """Returns the folder of the run or the sweep."""
    return Path(given.workdir) if given.workdir else default_workdir(given)


def train_run(given: flags.FlagValues) -> int:
    """Trains a single run; returns the exit status."""
    values, folder = validate(given.config, entries_of(given)), folder_of(given)

    from aevb import runs  # imports jax; after the checks that do not need it
    from aevb.runtime import distributed

    if given.coordinator:
        distributed.join(given.coordinator, given.num_processes, given.process_id)
    summary = runs.run(values, folder, debug=given.debug)
    if summary:  # empty in every process except process 0
        print(report(summary, folder))
    return 0


def train_sweep(given: flags.FlagValues) -> int:
    """Trains the runs of a sweep; returns the exit status."""
    options, folder = dict(map(parse_option, given.slurm)), folder_of(given)
    entries = entries_of(given)
    validate(given.config, entries)
    plan = declared_sweep(given, entries)

    from aevb.sweeps import sweep  # imports jax; after the checks that do not need it

    result = sweep.run(plan, folder, given.mapping, launcher=given.launcher, options=options)
    written = [file for name in ("sweep.*", "comparison.*") for file in folder.glob(name)]
    print("\n".join([sweep_table(result), *map(str, sorted(written))]))
    return 3 if any(row["failed"] for row in result["rows"]) else 0
