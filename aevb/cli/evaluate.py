"""Estimates log p(x) of a finished run's model, from below and from above.

aevb evaluate --workdir=RUN [--estimators=importance,ais,appendix_d] [--proposal=laplace] \
[--split=test] [--num_points=1000] [--which=best] [--step=STEP] [--num_theta=S] [--save=FILE.npz]

The result is printed as a table, with 95 % intervals, and written to RUN/marginal.json, or to
--output, with the settings and versions that a published number needs. Where a diagnostic fails,
the table has the reason instead of the estimator's interval. --save writes the estimates of every
datapoint and their standard errors to a new file, as the arrays `index`, `elbo`,
`elbo_standard_error`, `importance` and so on.

The estimators start from a density that is fitted to each datapoint's posterior, at one mode
(laplace) or at all modes found (modes), or from the encoder's (encoder), which is cheaper but too
narrow for most importance sampling. The split `simulated` is drawn from the model itself. Only for
its datapoints is an exact sample of the posterior known, which reverse_ais and importance_upper
need. A run of full_vb is evaluated at the mean of its posterior over the decoder's weights or, with
--num_theta, by the mean of p(x) over that many samples of the weights. Simulated datapoints then
have a sample each, and reverse_ais is over weights and z.

Where z is discrete, only importance and importance_upper are possible, with --proposal=encoder.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aevb.cli.common import Parser, reporting_mistakes
from aevb.config import of_finished_run
from aevb.errors import UserError

SPLITS = ("test", "valid", "train", "simulated")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UserError: a flag is unknown, or a value is invalid.
    """
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", type=Path, required=True, help="the folder of a finished run")
    parser.add_argument("--data", default="", help="the data's new name, if they have moved")
    parser.add_argument("--estimators", default="importance,ais,appendix_d", help="comma-separated")
    parser.add_argument(
        "--proposal",
        default="laplace",
        help="the density from which they start: laplace, modes or encoder (laplace)",
    )
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--output", type=Path, help="the file to write (RUN/marginal.json)")
    parser.add_argument("--save", type=Path, help="a new FILE.npz for the datapoints' estimates")
    parser.add_argument(
        "--which",
        choices=("last", "best"),
        default="last",
        help="the state at the end, or the one with the highest validation bound (last)",
    )
    parser.add_argument(
        "--step", type=_at_least(1), help="step of another checkpoint that the run kept"
    )
    for name, least, default, meaning in (
        ("num_points", 1, 1000, "n, the number of datapoints, from the start of the split"),
        ("num_samples", 2, 5000, "K, samples of importance"),
        ("num_temps", 2, 200, "T, temperatures of ais and reverse_ais"),
        ("num_chains", 2, 16, "C, chains of ais, reverse_ais and appendix_d"),
        ("num_draws", 4, 100, "L, samples of each chain of appendix_d"),
        ("num_leapfrog", 1, 10, "leapfrog steps of an HMC trajectory"),
        ("num_warmup", 1, 200, "HMC transitions that are discarded"),
        ("num_theta", 0, 0, "full_vb: samples of theta; 0 for its mean"),
    ):
        kind = _at_least(least)
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{meaning} ({default})")
    return parser.parse_args(arguments)


def _at_least(least: int):
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value}, which must be at least {least}")
        return value

    number.__name__ = "whole number"
    return number


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Estimates log p(x), writes the result to the output file and returns it.

    Raises:
        UserError: an error that the user can correct.
    """
    config = of_finished_run(args.workdir, args.data)
    if args.save is not None:
        require_new(args.save)

    from aevb.runs.evaluate import Request, evaluate  # after the check, because it imports jax

    wanted = {name: value for name, value in vars(args).items() if name in Request._fields}
    request = Request(**{**wanted, "estimators": tuple(args.estimators.split(","))})
    return evaluate(args.workdir, config, request, output_of(args), args.save)


def require_new(file: Path) -> None:
    """Raises a UserError if --save does not name a new FILE.npz in a folder that exists."""
    if file.suffix != ".npz":
        raise UserError(f"--save is {str(file)!r}; it must be the name of a FILE.npz")
    if file.exists():
        raise UserError(f"--save={file} exists; name a new file")
    if not file.parent.is_dir():
        raise UserError(f"--save={file} is in a folder that does not exist; make it first")


def output_of(args: argparse.Namespace) -> Path:
    return args.output or args.workdir / "marginal.json"


def table(result: dict[str, Any]) -> str:
    """Returns the result as a table for the terminal.

    Where a diagnostic fails it gives the reason instead of the interval.
    """
    from aevb.evaluation.intervals import interval_from
    from aevb.evaluation.log_likelihood import intervals_of, reason_to_distrust

    data, number = result["data"], result["data"]["num_points"]
    lines = [
        f"log p(x) of {number:,} datapoints, {data['split']} of {data['name']}, nats +- half of a "
        "95 % interval",
        f"{'':12} {'':5} {'mean':>10} {'over data':>11} {'estimator':>11} {'seconds':>9}",
    ]
    for name, row in result["estimators"].items():
        over_data, own = (interval.half_width for interval in intervals_of(row, number))
        lines.append(
            f"{name:12} {row['kind']:5} {row['mean']:10.3f} {_half(over_data, 3):>11} "
            f"{_half(own, 4):>11} {row['seconds']:9.1f}"
        )
        if reason := reason_to_distrust(row):
            lines.append(f"{'':18} not reliable: {reason}")
        lines += _diagnostics(row)
        if own_theta := row.get("over_theta"):
            lines += [f"{'':18} theta's {line.strip()}" for line in _diagnostics(own_theta)]
            means = ", ".join(f"{mean:.3f} ({size})" for size, mean in own_theta["means"].items())
            lines.append(f"{'':18} mean by the number of theta: {means}")
            lines.append(f"{'':18} bias, to first order: {own_theta['bias']:.3f}")
    for pair, gap in result["widths"].items():
        error, half = gap["standard_error"], None
        if error is not None:
            half = interval_from(gap["mean"], [error], number - 1, number=number).half_width
        lines.append(f"{pair}: {gap['mean']:.4f} {_half(half, 4)}, widest {gap['widest']:.3f}")
    return "\n".join(lines)


def _diagnostics(row: dict[str, Any]) -> list[str]:
    return [
        f"{'':18} {key}: median {_number(value['median'])}, worst {_number(value['worst'])}"
        for key, value in row.items()
        if isinstance(value, dict) and "worst" in value
    ]


def _half(half_width: float | None, digits: int) -> str:
    return "no interval" if half_width is None else f"+- {half_width:.{digits}f}"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3g}"


def main(arguments: Sequence[str]) -> int:
    """Runs `aevb evaluate`; returns the exit status: 0 if done, 2 for a user's mistake."""

    def body() -> int:
        args = parse(arguments)
        result = run(args)
        print("\n".join([table(result), *map(str, filter(None, [output_of(args), args.save]))]))
        return 0

    return reporting_mistakes(body)
