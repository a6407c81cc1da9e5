"""Estimates log p(x) of a finished run's model, from below and from above.

aevb evaluate --workdir=RUN [--estimators=importance,ais,appendix_d] [--proposal=laplace] \
[--split=test] [--num_points=1000] [--step=STEP] [--num_theta=S]

It prints a table and writes it, with what else a published number must carry, to
RUN/marginal.json or to --output. The estimators start from a density fitted to each datapoint's
posterior, at one mode (laplace) or at all that are found (modes), or from the encoder's, which is
cheaper but too narrow for most importance sampling. The split `simulated` is of datapoints that the
model itself draws; only there is an exact sample of the posterior known, from which reverse_ais
starts. A run of full_vb is evaluated at the mean of its posterior over the decoder's weights, or,
with --num_theta, by the mean of p(x) over so many samples of it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aevb.cli.common import Parser, reporting_mistakes
from aevb.config import of_finished_run
from aevb.errors import UserError

SPLITS = ("test", "train", "simulated")
SEED = 20131221  # of the noise and of simulated data: the day after the paper appeared


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
    parser.add_argument("--estimators", default="importance,ais,appendix_d", help="comma-separated")
    parser.add_argument(
        "--proposal",
        default="laplace",
        help="what they start from: laplace, modes or encoder (laplace)",
    )
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--output", type=Path, help="the file to write (RUN/marginal.json)")
    parser.add_argument(
        "--step", type=_at_least(1), help="of the checkpoint, if the run kept it (the newest)"
    )
    for name, least, default, meaning in (
        ("num_points", 1, 1000, "n: the first so many datapoints of the split"),
        ("num_samples", 2, 5000, "K of importance"),
        ("num_temps", 2, 200, "T of ais and reverse_ais"),
        ("num_chains", 2, 16, "C of ais, reverse_ais and appendix_d"),
        ("num_draws", 2, 100, "L of each of appendix_d's chains"),
        ("num_leapfrog", 1, 10, "steps of a trajectory of HMC"),
        ("num_warmup", 1, 200, "transitions of HMC that are dropped"),
        ("num_theta", 0, 0, "full_vb: samples of theta, or 0 for its mean"),
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
    config = of_finished_run(args.workdir)
    import jax
    import numpy as np

    from aevb import marginal
    from aevb.algorithms import full_vb
    from aevb.evaluation import log_likelihood
    from aevb.evaluation.elbo import fixed_inputs
    from aevb.experiment import build
    from aevb.inference import hmc
    from aevb.proposals import PROPOSALS
    from aevb.runs.load import read_state
    from aevb.runtime import provenance, xla
    from aevb.storage import metrics_log

    names = check_estimators(args, marginal.ESTIMATORS)
    if args.num_theta and config["algorithm.name"] != "full_vb":
        raise UserError(
            f"--num_theta is {args.num_theta}, but {args.workdir} is a run of "
            f"{config['algorithm.name']}, which has no posterior over theta; leave it at 0"
        )
    if args.num_theta and args.split == "simulated":
        raise UserError("--num_theta is for data; --split=simulated draws from the mean of theta")
    if args.proposal not in PROPOSALS:
        raise UserError(f"--proposal is {args.proposal!r}; it is one of {', '.join(PROPOSALS)}")
    xla.use_cache()
    experiment = build(config)
    dataset, vae, algorithm = experiment
    stored = {"test": dataset.test, "train": dataset.train}.get(args.split)
    if stored is not None and args.num_points > len(stored):
        raise UserError(
            f"--num_points is {args.num_points}; it can be at most the {len(stored)} datapoints "
            f"of the {args.split} split of {dataset.name}"
        )
    state = read_state(args.workdir, experiment, config, args.step)
    data_key, noise_key, theta_key = jax.random.split(jax.random.key(SEED), 3)
    if args.num_theta:
        thetas = [
            full_vb.draw(k, state.params) for k in jax.random.split(theta_key, args.num_theta)
        ]
    else:
        thetas = [algorithm.vae_params(state.params)]
    if stored is None:
        (params,) = thetas
        points = log_likelihood.simulate(data_key, vae, params, args.num_points)
    else:
        index = np.arange(args.num_points)
        points = log_likelihood.Points(fixed_inputs(dataset.preprocess, index, stored[index]), None)

    chains = hmc.Settings(num_leapfrog=args.num_leapfrog, num_warmup=args.num_warmup)
    annealing = {"num_temps": args.num_temps, "num_chains": args.num_chains, "settings": chains}
    draws = {"num_samples": args.num_draws, "num_chains": args.num_chains, "settings": chains}
    settings: dict[str, dict[str, Any]] = {
        "elbo": {},
        "importance": {"num_samples": args.num_samples},
        "ais": annealing,
        "reverse_ais": annealing,
        "appendix_d": draws,
    }
    found, rows = {}, {}
    for number, name in enumerate(settings):
        # Over several theta the elbo is left out: log p(x) is not the log of a mean of exp(bound).
        if name not in names and (name != "elbo" or args.num_theta):
            continue
        parts, seconds = [], 0.0
        with metrics_log.progress_bar(args.num_points * len(thetas), 0, "datapoints") as bar:
            bar.set_postfix_str(name)
            key = jax.random.fold_in(noise_key, number)
            keys = [key] if len(thetas) == 1 else jax.random.split(key, len(thetas))
            for key, params in zip(keys, thetas, strict=True):
                part, its_seconds = log_likelihood.estimate_points(
                    key,
                    vae,
                    params,
                    points,
                    name,
                    settings[name],
                    proposal=args.proposal,
                    progress=lambda done, bar=bar, base=bar.n: bar.update(base + done - bar.n),
                )
                parts.append(part)
                seconds += its_seconds
        found[name] = log_likelihood.over_theta(parts)
        plain = {k: v._asdict() if k == "settings" else v for k, v in settings[name].items()}
        rows[name] = {
            "kind": "lower" if name == "elbo" else marginal.ESTIMATORS[name].kind,
            "proposal": "encoder" if name == "elbo" else args.proposal,
            "settings": plain,
            **log_likelihood.summarize(found[name]),
            "seconds": round(seconds, 3),
        }
    widths = {
        f"{upper} - {lower}": log_likelihood.width(found[lower], found[upper])
        for upper in names
        if rows[upper]["kind"] == "upper"
        for lower in names
        if rows[lower]["kind"] == "lower"
    }
    result = {
        "data": {"name": dataset.name, "split": args.split, "num_points": args.num_points},
        "model": {
            "num_latents": vae.num_latents,
            "step": int(state.step),
            "seed": config["seed"],
            "num_theta": args.num_theta,
        },
        "noise_seed": SEED,
        "estimators": rows,
        "sandwich": widths,
        "versions": provenance.versions(),
        "machine": {**provenance.machine(), "device": jax.devices()[0].device_kind},
    }
    metrics_log.write_json(output_of(args), result)
    return result


def output_of(args: argparse.Namespace) -> Path:
    return args.output or args.workdir / "marginal.json"


def check_estimators(args: argparse.Namespace, known: Any) -> list[str]:
    """Returns the names in --estimators, after checking them.

    Raises:
        UserError: a name is unknown, or the estimator cannot be used on these data.
    """
    names = args.estimators.split(",")
    for name in names:
        if name not in known:
            raise UserError(
                f"--estimators has {name!r}; it is a list, separated by commas, of "
                f"{', '.join(known)}"
            )
    uppers = [name for name in names if known[name].kind == "upper"]
    if args.num_theta and uppers:
        raise UserError(
            f"--estimators has {uppers[0]!r}, an upper bound, but the mean of p(x) over "
            f"--num_theta={args.num_theta} samples is bounded from below alone; ask for "
            "importance or ais"
        )
    if "reverse_ais" in names and args.split != "simulated":
        raise UserError(
            "--estimators has 'reverse_ais', which starts from an exact sample of the posterior, "
            "and data have none; use --split=simulated, or appendix_d for an upper bound"
        )
    return names


def table(result: dict[str, Any]) -> str:
    """Returns the result as a table for the terminal."""
    data = result["data"]
    lines = [
        f"log p(x) of {data['num_points']:,} datapoints, {data['split']} of {data['name']}, nats",
        f"{'':12} {'':5} {'mean':>10} {'over data':>10} {'estimator':>10} {'seconds':>9}",
    ]
    for name, row in result["estimators"].items():
        over_data = row["standard_error"]
        lines.append(
            f"{name:12} {row['kind']:5} {row['mean']:10.3f} "
            f"{'' if over_data is None else format(over_data, '10.3f'):>10} "
            f"{row['estimator_standard_error']:10.4f} {row['seconds']:9.1f}"
        )
        lines += [
            f"{'':18} {key}: median {_number(value['median'])}, worst {_number(value['worst'])}"
            for key, value in row.items()
            if isinstance(value, dict) and "worst" in value
        ]
    for pair, gap in result["sandwich"].items():
        error = gap["standard_error"]
        plus_minus = "" if error is None else f" +- {error:.4f}"
        lines.append(f"{pair}: {gap['mean']:.4f}{plus_minus}, widest {gap['widest']:.3f}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3g}"


def main(arguments: Sequence[str]) -> int:
    """Runs `aevb evaluate`; returns the exit status: 0 if done, 2 for a user's mistake."""

    def body() -> int:
        args = parse(arguments)
        print(f"{table(run(args))}\n{output_of(args)}")
        return 0

    return reporting_mistakes(body)
