"""Trains the models, takes the measurements and draws the figures of the report on the paper.

python -m experiments.paper [--quick] [--only=figure_2_frey,...] [--data-dir=FOLDER] \
[-- FLAGS OF run.py]

Each study is a sweep of `experiments/run.py` in runs/paper/, which is resumed if it was stopped.
Its results file in experiments/results/paper/ holds every run's curve. `python -m docs.tools.paper`
makes docs/paper.md from these files. All studies together take hours on two CPU cores; the longest,
of an hour or more each, are trained only if --only names them. --quick
checks in ten minutes that everything works, with runs that are far too short to be informative, and
writes only to runs/paper-quick.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aevb.cli.common import reporting_mistakes
from aevb.config import of_finished_run
from aevb.evaluation import manifold
from aevb.experiment import build
from aevb.reports import figures, run_figures
from aevb.runs.load import read_state
from aevb.runtime import provenance
from aevb.storage import metrics_log

from .measurements import QUICK, Run, Scale
from .studies import LONGEST, PICTURES, RESULTS, ROOT, STUDIES, Study, argument_parser, run_py

SPLITS = ("train_", "valid_", "test_", "best_")
IGNORED = ("seed", "optimizer.step_size")  # axes that do not define a setting of their own


def flags_of(study: Study, args: argparse.Namespace) -> list[str]:
    return [*study.flags, *study.seeds, *(study.quick if args.quick else ()), *args.extra]


def runs_of(folder: Path) -> list[Run]:
    summaries = sorted(folder.glob("*/summary.json"))
    return [Run(file.parent, of_finished_run(file.parent)) for file in summaries]


def collect(study: Study, folder: Path, scale: Scale) -> dict[str, Any]:
    """Returns a study's results: its choices of the step size, and every run with its curve."""
    sweep = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    axes = [axis for axis in sweep["rows"][0]["setting"] if axis not in IGNORED]
    runs = []
    for run in runs_of(folder):
        summary = json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))
        records = metrics_log.read_records(run.folder / "metrics.jsonl")
        bounds = {k: v for k, v in summary.items() if k.startswith(SPLITS)}
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
    planes, samples = {}, {}
    of_frey = [run for run in runs_of(frey) if run.config["algorithm.name"] == "aevb"]
    of_mnist = sorted(runs_of(mnist), key=lambda run: run.config["model.num_latents"])
    for run in (*of_frey, *of_mnist):
        num_latents = run.config["model.num_latents"]
        if run.config["seed"] != 0 or (run in of_frey and num_latents != 2):
            continue
        dataset, vae, algorithm = build(run.config)
        assert dataset.image_shape is not None
        state = read_state(run.folder, algorithm, run.config)
        params = algorithm.vae_params(state.params)
        if num_latents == 2:
            means = manifold.decode_unit_square(vae, params)
            title = "Frey faces" if run in of_frey else "MNIST"
            planes[title] = means.reshape(len(means), len(means), *dataset.image_shape)
        if run in of_mnist:
            drawn = run_figures.sample_means(vae, params)
            samples[f"{num_latents} latent dimensions"] = drawn.reshape(-1, *dataset.image_shape)
    pictures.mkdir(parents=True, exist_ok=True)
    figures.save(figures.manifolds(planes, manifold.QUANTILES), str(pictures / "figure_4.png"))
    figures.save(figures.samples(samples), str(pictures / "figure_5.png"))


def main() -> int:
    parser = argument_parser(__doc__, "--only", STUDIES, by_name=LONGEST)
    parser.add_argument("--quick", action="store_true", help="short, and not for publication")
    parser.add_argument("--data-dir", type=Path, help="where files that you brought lie")
    args = parser.parse_args()
    data_dir = [f"--config.data.manual_dir={args.data_dir.absolute()}"] if args.data_dir else []
    runs = args.runs or ROOT / "runs" / ("paper-quick" if args.quick else "paper")
    results = runs / "results" if args.quick else RESULTS
    results.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        study, folder, began = STUDIES[name], runs / name, time.monotonic()
        print(f"\n=== {name}", flush=True)
        flags = flags_of(study, args)
        sweep = run_py(study.config, folder, ["--sweep", *flags, *data_dir])
        status = subprocess.run(sweep, check=False).returncode
        if status not in (0, 3):  # 3: a run failed, which the results record
            return status
        found = collect(study, folder, QUICK if args.quick else Scale())
        report = {
            "command": f"python -m experiments.paper --only={name}{' --quick' * args.quick}",
            "flags": flags,
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "wall_seconds_of_the_last_call": round(time.monotonic() - began, 1),
            **found,
        }
        metrics_log.write_json(results / f"{name}.json", report)
    if {"figure_2_frey", "figure_5"} <= set(args.only):
        pictures = runs / "paper" if args.quick else PICTURES
        draw_models(runs / "figure_2_frey", runs / "figure_5", pictures)
    return 0


if __name__ == "__main__":
    sys.exit(reporting_mistakes(main))
