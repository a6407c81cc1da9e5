"""Trains the models, takes the measurements and draws the figures of the report on the paper.

python -m experiments.paper [--quick] [--only=figure_2_frey,...] [--data-dir=FOLDER] \
[-- FLAGS OF run.py]

Each study is a sweep of `experiments/run.py` in runs/paper/, which is resumed if it was stopped.
Its results file in experiments/results/paper/ holds every run's curve. `python -m docs.tools.paper`
makes docs/paper.md from these files. All studies together take hours on two CPU cores. --quick
checks in ten minutes that everything works, with runs that are far too short to be informative, and
writes only to runs/paper-quick.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aevb.cli import evaluate
from aevb.cli.common import reporting_mistakes
from aevb.config import of_finished_run
from aevb.runtime import provenance
from aevb.storage import metrics_log

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results" / "paper"
PICTURES = ROOT / "docs" / "paper"
IGNORED = ("seed", "optimizer.step_size")  # axes that do not define a setting of their own


class Scale(NamedTuple):
    """The size of the measurements."""

    num_points: int  # datapoints whose log p(x) is estimated
    num_chains: int
    num_samples: int  # K of importance sampling
    num_temps: int
    num_theta: int
    num_evaluations: int  # measured per run, the last ones


FULL = Scale(
    num_points=200,
    num_chains=4,
    num_samples=1000,
    num_temps=200,
    num_theta=10,
    num_evaluations=6,  # from 10⁴ examples on
)
QUICK = Scale(
    num_points=10, num_chains=2, num_samples=100, num_temps=10, num_theta=2, num_evaluations=1
)


class Run(NamedTuple):
    """A finished run of a study."""

    folder: Path
    config: Mapping[str, Any]


Measure = Callable[[Run, Scale], dict[str, Any]]  # returns further entries of a run's results


class Study(NamedTuple):
    """A sweep, and the measurement that is made on each of its runs."""

    config: str  # a file of experiments/
    flags: tuple[str, ...] = ()  # of run.py, in addition to --sweep
    quick: tuple[str, ...] = ()  # added by --quick
    measure: Measure | None = None


def appendix_d_along_training(run: Run, scale: Scale) -> dict[str, Any]:
    """Returns log p(x) by the paper's estimator at each evaluation, and both bounds at the end.

    All of them use a fit of every mode of each posterior. The posteriors of Monte Carlo EM have
    several modes; estimates that start from one mode find only a part of p(x).
    """
    curve: dict[str, Any] = {"examples": [], "train": [], "test": []}
    records = metrics_log.read_records(run.folder / "metrics.jsonl")
    common = ("--proposal=modes", f"--num_chains={scale.num_chains}")
    papers = ("--num_draws=50", "--num_leapfrog=4", "--num_warmup=100")  # few, from a fit
    for record in records[-scale.num_evaluations :]:
        curve["examples"].append(record["examples"])
        step = record["examples"] // run.config["train.batch_size"]
        for split in ("train", "test"):
            flags = ("--estimators=appendix_d", f"--split={split}", f"--step={step}", *common)
            found = estimate(run, f"{step}_{split}", scale, *flags, *papers)
            curve[split].append(found["estimators"]["appendix_d"])
    sandwich = estimate(
        run,
        "sandwich",
        scale,
        f"--num_samples={scale.num_samples}",
        f"--num_temps={scale.num_temps}",
        *common,
    )
    return {"appendix_d": curve, "sandwich": sandwich}


def predictions(run: Run, scale: Scale) -> dict[str, Any]:
    """Returns the test log p(x) at the mean of theta and, if it has a posterior, by its samples."""
    flags = ("--estimators=importance", f"--num_samples={scale.num_samples}")
    found = {"mean": estimate(run, "mean", scale, *flags)}
    if run.config["algorithm.name"] == "full_vb":
        found["samples"] = estimate(run, "samples", scale, *flags, f"--num_theta={scale.num_theta}")
        found["evidence"] = evidence_bound(run)
    return found


def latents_in_use(run: Run, scale: Scale) -> dict[str, Any]:
    """Counts the latents that carry information in the test data, with the KL of both groups."""
    import jax
    import numpy as np

    from aevb.evaluation.diagnostics import kl_per_unit
    from aevb.evaluation.elbo import fixed_inputs
    from aevb.experiment import build
    from aevb.runs.load import read_state

    experiment = build(run.config)
    dataset, vae, algorithm = experiment
    state = read_state(run.folder, experiment, run.config)
    params = algorithm.vae_params(state.params)
    index = np.linspace(0, len(dataset.test) - 1, 10 * scale.num_points).astype(int)
    x = fixed_inputs(dataset.preprocess, index, dataset.test[index])
    kl = np.asarray(jax.vmap(lambda one: kl_per_unit(vae.encode(params, one)))(x)).mean(axis=0)
    used = kl > IN_USE
    return {
        "latents_in_use": int(used.sum()),
        "kl_in_use": float(kl[used].sum()),
        "kl_of_the_others": float(kl[~used].sum()),
    }


IN_USE = 0.1  # nats of a latent's KL, averaged over the test data
STEP = "--config.optimizer.step_size=0.02"
SHORT = ("--config.train.num_examples=20000", STEP, "--axis=seed=0")
FEW = (*SHORT, "--axis=data.num_train=1000")
LONGER = ("--config.train.num_examples=50000", STEP, "--axis=seed=0")
MILLION = "--config.train.num_examples=1000000"

STUDIES: Mapping[str, Study] = {
    "figure_2_mnist": Study("figure_2_mnist", quick=(*LONGER, "--axis=model.num_latents=3,20")),
    # The paper sees no overfitting. These runs are longer, at the step size that is best at the
    # end.
    "superfluous": Study(
        "figure_2_mnist",
        ("--config.train.num_examples=30000000", STEP, "--axis=model.num_latents=20,200",
         "--axis=algorithm.name=aevb"),
        quick=(*LONGER, "--axis=model.num_latents=20,200"),
        measure=latents_in_use,
    ),
    "figure_2_frey": Study("figure_2_frey", quick=(*LONGER, "--axis=model.num_latents=2,20")),
    "figure_3": Study(
        "figure_3", ("--axis=algorithm.name=aevb,wake_sleep",), quick=FEW,
        measure=appendix_d_along_training,
    ),
    "figure_3_mcem": Study(
        "figure_3", ("--axis=algorithm.name=mcem",), quick=FEW, measure=appendix_d_along_training
    ),
    "figure_5": Study("figure_5", quick=LONGER),
    "full_vb_mnist": Study(
        "full_vb_mnist", quick=(*SHORT, "--axis=data.num_train=100,1000"), measure=predictions
    ),
    "full_vb_frey": Study("full_vb_frey", quick=SHORT, measure=predictions),
    # Choices that the paper does not state, or states without a figure: the effect of each.
    "silent_binarization": Study(
        "mnist",
        (MILLION, STEP, "--axis=model.num_latents=20", "--axis=data.binarization=dynamic,fixed"),
        quick=SHORT,
    ),
    "silent_split": Study(
        "frey_faces",
        (MILLION, STEP, "--axis=model.num_latents=2", "--axis=data.split=random,blocked"),
        quick=SHORT,
    ),
    "silent_init_mnist": Study(
        "binarized_mnist",
        (MILLION, "--axis=model.num_latents=20", "--axis=model.init_std=0.1,0.01"),
        quick=SHORT,
    ),
    "silent_init_frey": Study(
        "frey_faces",
        (MILLION, "--axis=model.num_latents=2", "--axis=model.init_std=0.1,0.01",
         "--config.data.split=random"),
        quick=SHORT,
    ),
    "silent_samples": Study(
        "binarized_mnist",
        (MILLION, STEP, "--axis=model.num_latents=20", "--axis=algorithm.num_samples=1,10"),
        quick=SHORT,
    ),
    "silent_biases": Study(
        "binarized_mnist",
        (MILLION, STEP, "--axis=model.num_latents=20",
         "--axis=algorithm.prior_on_biases=True,False"),
        quick=SHORT,
    ),
}  # fmt: skip


def estimate(run: Run, name: str, scale: Scale, *flags: str) -> dict[str, Any]:
    """Returns the result of `evaluate.py`, which runs once for each run and name."""
    output = run.folder / "marginal" / f"{name}.json"
    if not output.exists():
        output.parent.mkdir(exist_ok=True)
        points = f"--num_points={scale.num_points}"
        evaluate.run(
            evaluate.parse([f"--workdir={run.folder}", f"--output={output}", points, *flags])
        )
    return json.loads(output.read_text())


def evidence_bound(run: Run) -> dict[str, float]:
    """Returns full variational Bayes' bound on log p(X) of its training data, over N; nats."""
    import jax
    import numpy as np

    from aevb.algorithms import full_vb
    from aevb.algorithms.gradient_ascent import ParamPrior
    from aevb.evaluation.elbo import fixed_inputs
    from aevb.experiment import build
    from aevb.runs.evaluate import SEED
    from aevb.runs.load import read_state

    experiment = build(run.config)
    dataset, vae, _ = experiment
    state = read_state(run.folder, experiment, run.config)
    number = len(dataset.train)
    x = fixed_inputs(dataset.preprocess, np.arange(number), dataset.train)
    prior = ParamPrior(run.config["algorithm.param_prior_std"])
    bound, error = jax.jit(
        lambda key: full_vb.log_evidence_bound(
            key, vae, state.params, x, num_samples=100, prior=prior
        )
    )(jax.random.key(SEED))
    kl = full_vb.kl_to_prior(state.params, prior)
    return {
        "bound": float(bound) / number,
        "estimator_standard_error": float(error) / number,
        "kl_theta": float(kl) / number,
    }


def sweep_command(study: Study, folder: Path, args: argparse.Namespace) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "experiments" / "run.py"),
        f"--config={ROOT / 'experiments' / study.config}.py",
        "--sweep",
        f"--workdir={folder}",
        *study.flags,
        *(study.quick if args.quick else ()),
        *([f"--config.data.manual_dir={args.data_dir.absolute()}"] if args.data_dir else []),
        *args.extra,
    ]


def runs_of(folder: Path) -> list[Run]:
    summaries = sorted(folder.glob("*/summary.json"))
    return [Run(file.parent, of_finished_run(file.parent)) for file in summaries]


def collect(study: Study, folder: Path, scale: Scale) -> dict[str, Any]:
    """Returns a study's results: its choices of the step size, and every run with its curve."""
    sweep = json.loads((folder / "sweep.json").read_text())
    axes = [axis for axis in sweep["rows"][0]["setting"] if axis not in IGNORED]
    runs = []
    for run in runs_of(folder):
        summary = json.loads((run.folder / "summary.json").read_text())
        records = metrics_log.read_records(run.folder / "metrics.jsonl")
        bounds = {k: v for k, v in summary.items() if k.startswith(("train_", "test_"))}
        runs.append(
            {
                "setting": {axis: run.config[axis] for axis in axes},
                "seed": run.config["seed"],
                "step_size": run.config["optimizer.step_size"],
                "num_examples": summary["num_examples"],
                "seconds": summary["seconds"],
                **bounds,
                "curve": metrics_log.curve(records),
                "last_record": records[-1],
                "measured": study.measure(run, scale) if study.measure else None,
            }
        )
        print(f"{folder.name}: {run.folder.name}", flush=True)
    failed = {name: why for row in sweep["rows"] for name, why in row["failed"].items()}
    return {"trials": sweep["trials"], "failed": failed, "runs": runs}


def draw_models(frey: Path, mnist: Path, pictures: Path) -> None:
    """Draws figures 4 and 5, which need the models of the studies in these two folders."""
    from aevb.experiment import build
    from aevb.reports import figures, run_figures
    from aevb.runs.load import read_state

    planes, samples = {}, {}
    of_frey = [run for run in runs_of(frey) if run.config["algorithm.name"] == "aevb"]
    of_mnist = sorted(runs_of(mnist), key=lambda run: run.config["model.num_latents"])
    for run in (*of_frey, *of_mnist):
        num_latents = run.config["model.num_latents"]
        if run.config["seed"] != 0 or (run in of_frey and num_latents != 2):
            continue
        experiment = build(run.config)
        dataset, vae, algorithm = experiment
        assert dataset.image_shape is not None
        state = read_state(run.folder, experiment, run.config)
        params = algorithm.vae_params(state.params)
        if num_latents == 2:
            means = run_figures.decode_unit_square(vae, params)
            side = len(means)
            title = "Frey faces" if run in of_frey else "MNIST"
            planes[title] = means.reshape(side, side, *dataset.image_shape)
        if run in of_mnist:
            drawn = run_figures.sample_means(vae, params)
            samples[f"{num_latents} latent dimensions"] = drawn.reshape(-1, *dataset.image_shape)
    pictures.mkdir(parents=True, exist_ok=True)
    figures.save(figures.manifolds(planes, run_figures.QUANTILES), str(pictures / "figure_4.png"))
    figures.save(figures.samples(samples), str(pictures / "figure_5.png"))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short, and not for publication")
    parser.add_argument("--only", default=",".join(STUDIES), help="comma-separated (default: all)")
    parser.add_argument("--data-dir", type=Path, help="where files that you brought lie")
    parser.add_argument("--runs", type=Path, help="folder of the runs (runs/paper)")
    parser.add_argument("extra", nargs="*", metavar="-- FLAGS", help="for every run.py")
    args = parser.parse_args()
    args.only = args.only.split(",")
    if unknown := set(args.only) - set(STUDIES):
        parser.error(f"--only has {sorted(unknown)}; there are {', '.join(STUDIES)}")
    return args


def main() -> int:
    args = parse_args()
    runs = args.runs or ROOT / "runs" / ("paper-quick" if args.quick else "paper")
    results = runs / "results" if args.quick else RESULTS
    pictures = runs / "paper" if args.quick else PICTURES
    results.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        study, folder = STUDIES[name], runs / name
        print(f"\n=== {name}", flush=True)
        began = time.monotonic()
        status = subprocess.run(sweep_command(study, folder, args), check=False).returncode
        if status not in (0, 3):  # 3: a run failed, which the results record
            return status
        found = collect(study, folder, QUICK if args.quick else FULL)
        report = {
            "command": f"python -m experiments.paper --only={name}"
            + (" --quick" if args.quick else ""),
            "flags": [*study.flags, *(study.quick if args.quick else ()), *args.extra],
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "wall_seconds_of_the_last_call": round(time.monotonic() - began, 1),
            **found,
        }
        metrics_log.write_json(results / f"{name}.json", report)
    if {"figure_2_frey", "figure_5"} <= set(args.only):
        draw_models(runs / "figure_2_frey", runs / "figure_5", pictures)
    return 0


if __name__ == "__main__":
    sys.exit(reporting_mistakes(main))
