"""Compares the Bayesian Gaussian mixture of aevb and of scikit-learn, in paired rounds.

    python experiments/benchmarks/mixture_speed.py [--rounds=3] [--sweeps=20]

The data are 100,000 simulated points in 10 dimensions. Each contender fits 10 components with full
covariances from 10 restarts, with the same number of iterations of the same updates under the same
prior, on one machine. A round times one whole fit of every contender in turn, including the
initialization and excluding the compilation. The ratio is a contender's time divided by that of
aevb in float32. scikit-learn works in float64, its default, with as many threads as BLAS takes and
with one: on a machine with other load, threads that wait for one another slow down most. The
scores, mean log-densities in nats, show whether the fits are equally good.
"""

import argparse
import contextlib
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from contender import Contender, in_turn, load_of_others, summary, write_report

BENCHMARKS = Path(__file__).resolve().parent
CONTENDERS = ("aevb_float32", "aevb_float64", "sklearn", "sklearn_one_thread")
ONE_THREAD = ["env", "OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1"]


def compare(contenders: list[Contender], rounds: int) -> dict[str, Any]:
    """Runs rounds in turn; returns each contender's seconds, ratio, processor time and score."""
    answers: dict[str, list[dict]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in in_turn(contenders, number):
            answers[contender.name].append(contender.ask(str(number + 1)))
        seconds = {name: round(done[-1]["seconds"], 2) for name, done in answers.items()}
        print(f"round {number + 1}/{rounds}, seconds: {seconds}", flush=True)
    return summarize(answers, contenders[0].name)


def summarize(answers: dict[str, list[dict]], ours: str) -> dict[str, Any]:
    """Summarizes ratios that are taken per round, so that a slow minute affects all contenders."""
    results = {}
    for name, done in answers.items():
        ratios = [a["seconds"] / b["seconds"] for a, b in zip(done, answers[ours], strict=True)]
        of_cpu = [
            a["cpu_seconds"] / b["cpu_seconds"] for a, b in zip(done, answers[ours], strict=True)
        ]
        results[name] = {
            "seconds": summary([answer["seconds"] for answer in done]),
            "ratio": summary(ratios),
            "cpu_ratio": summary(of_cpu),
            "cpu_per_wall": statistics.median(a["cpu_seconds"] / a["seconds"] for a in done),
            "score": summary([answer["score"] for answer in done]),
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=10)
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--sweeps", type=int, default=20)
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="(default: all)")
    parser.add_argument("--output", type=Path, default=BENCHMARKS / "results/mixture_speed.json")
    args = parser.parse_args()
    names = args.contenders.split(",")
    if unknown := set(names) - set(CONTENDERS):
        parser.error(f"--contenders has {sorted(unknown)}; there are {', '.join(CONTENDERS)}")
    sizes = {
        name: getattr(args, name) for name in ("points", "dims", "components", "restarts", "sweeps")
    }
    flags = [f"--{name}={size}" for name, size in sizes.items()]
    load = load_of_others()
    with contextlib.ExitStack() as stack:
        contenders, announced = [], {}
        for name in names:
            prefix = ONE_THREAD if name.endswith("one_thread") else []
            worker = str(BENCHMARKS / "mixture_worker.py")
            command = [*prefix, sys.executable, worker, name, *flags]
            contenders.append(stack.enter_context(Contender(name, command)))
            announced[name] = contenders[-1].read_answer()
        results = compare(contenders, args.rounds)
    for name, result in results.items():
        result["first_seconds"] = announced[name]["first_seconds"]
    write_report(
        args.output,
        command=f"python experiments/benchmarks/mixture_speed.py --rounds={args.rounds} "
        + " ".join(flags)
        + f" --contenders={args.contenders}",
        load=load,
        versions={name: said["versions"] for name, said in announced.items()},
        sizes=sizes,
        rounds=args.rounds,
        cores=os.cpu_count(),
        contenders=results,
    )
    for name, result in results.items():
        print(
            f"{name:20} {result['seconds']['median']:8.2f} s  x{result['ratio']['median']:6.2f}  "
            f"cpu x{result['cpu_ratio']['median']:6.2f}  cpu/wall {result['cpu_per_wall']:.2f}  "
            f"score {result['score']['median']:.4f}"
        )


if __name__ == "__main__":
    main()
