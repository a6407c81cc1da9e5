"""Trains one experiment in its folder, or takes it up where it stopped.

python experiments/run.py --config=experiments/frey_faces.py [--workdir=DIR] \
[--config.FIELD=VALUE ...]
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

from aevb.config import WITHOUT_EFFECT, default_config, help_text, validate
from aevb.errors import Interrupted, UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment's file, for example experiments/frey_faces.py."
)
WORKDIR = flags.DEFINE_string(
    "workdir", "", "The run's folder; runs/<experiment>/<overrides> if it is not given."
)
CONFIG_IS_MISSING = "--config is missing; try --config=experiments/frey_faces.py"
HELP = {"--help", "-help", "-h", "--helpfull", "--helpshort"}
LONGEST_NAME = 120  # characters that every file system allows a folder's name


def parse(argv: list[str]) -> None:
    """Reads the command line into the flags.

    Raises:
        UserError: an unknown flag or field, a value of the wrong type, a file that is no config.
    """
    try:
        rest = flags.FLAGS(argv)[1:]
        if CONFIG.value is not None:
            CONFIG.value.keys()  # a file that failed to load says so only now
    except AttributeError as error:
        words = " ".join(str(error).split())
        if "get_config" in words:
            raise UserError("--config names a file without get_config()") from error
        raise UserError(f"unknown field: {words} (--help lists the fields)") from error
    except (flags.Error, KeyError, TypeError, ValueError) as error:
        words = " ".join(str(error).split())
        raise UserError(f"{words} (--help lists flags and fields)") from error
    except Exception as error:  # whatever the user's config file raises when it is executed
        words = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"--config cannot be read: {words}; name a file with get_config(), such as "
            "experiments/frey_faces.py"
        ) from error
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag; settings are written --config.FIELD=VALUE")


def default_workdir() -> Path:
    """runs/<experiment>/<name from the overrides>, where an override is what the user typed."""
    holder = flags.FLAGS["config"]
    experiment = Path(config_flags.get_config_filename(holder)).stem  # pyright: ignore[reportArgumentType]
    overrides = config_flags.get_override_values(holder)  # pyright: ignore[reportArgumentType]
    name = ",".join(
        f"{field}={value}"
        for field, value in sorted(overrides.items())
        if field not in WITHOUT_EFFECT
    )
    name = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", name)[:LONGEST_NAME].strip("_")
    return Path("runs") / experiment / (name or "default")


def report(summary: dict[str, Any], folder: Path) -> str:
    """A run's result, for a person."""
    lines = [f"{'':6} {'bound (nats)':>12} {'std. error':>11} {'bits/dim':>9}"]
    for split in ("train", "test"):
        bits = summary.get(f"{split}_bits_per_dim")
        lines.append(
            f"{split:6} {summary[f'{split}_bound']:12.2f} "
            f"{summary[f'{split}_bound_standard_error']:11.2f} "
            f"{'' if bits is None else format(bits, '9.3f'):>9}"
        )
    lines.append(
        f"{summary['num_examples']:,} training examples in {summary['seconds']:.1f} s of training, "
        f"{summary['examples_per_second']:,.0f} examples/s"
    )
    lines += [str(picture) for picture in sorted((folder / "figures").glob("*.png"))]
    return "\n".join(lines)


def reporting_mistakes(body: Callable[[], int]) -> int:
    """What `body` returns, or the exit status of what it raises, which it tells in one line."""
    logging.set_verbosity(logging.FATAL)
    try:
        return body()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.status


def main(argv: list[str]) -> int:
    """-> the exit status: 0 done, 2 a user's mistake, 128 + signal when interrupted."""

    def body() -> int:
        parse([argument for argument in argv if argument not in HELP])
        if HELP & set(argv):
            fields = help_text(CONFIG.value or default_config())
            print(f"{__doc__}\nFields, with their values in this experiment:\n\n{fields}")
            return 0
        if CONFIG.value is None:
            raise UserError(CONFIG_IS_MISSING)
        values = validate(CONFIG.value)
        folder = Path(WORKDIR.value) if WORKDIR.value else default_workdir()

        from aevb import runs  # imports jax: after all that can be refused without it

        print(report(runs.run(values, folder), folder))
        return 0

    return reporting_mistakes(body)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
