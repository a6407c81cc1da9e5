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

import contextlib
import os
import statistics
from typing import Any

import harness

CONTENDERS = ("aevb_float32", "aevb_float64", "sklearn", "sklearn_one_thread")
ONE_THREAD = ["env", "OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1"]


SIZES = {"points": 100_000, "dims": 10, "components": 10, "restarts": 10, "sweeps": 20}


def summarize(answers: dict[str, list[dict]]) -> dict[str, Any]:
    """Returns each contender's seconds, ratios to the first contender, CPU/wall time and score."""
    ours = next(iter(answers.values()))

    def ratio(done: list[dict], name: str) -> dict[str, float]:
        return harness.ratios((answer[name] for answer in done), (answer[name] for answer in ours))

    return {
        name: {
            "seconds": harness.summary([answer["seconds"] for answer in done]),
            "ratio": ratio(done, "seconds"),
            "cpu_ratio": ratio(done, "cpu_seconds"),
            "cpu_per_wall": statistics.median(a["cpu_seconds"] / a["seconds"] for a in done),
            "score": harness.summary([answer["score"] for answer in done]),
        }
        for name, done in answers.items()
    }


def main() -> None:
    parser = harness.argument_parser(__doc__, rounds=3)
    for name, size in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    harness.add_choices(parser, "--contenders", CONTENDERS)
    args = parser.parse_args()
    sizes = {name: getattr(args, name) for name in SIZES}
    flags = [f"--{name}={size}" for name, size in sizes.items()]
    load = harness.load_of_others()
    with contextlib.ExitStack() as stack:
        contenders = []
        for name in args.contenders:
            prefix = ONE_THREAD if name.endswith("one_thread") else []
            command = [*prefix, *harness.command_of("mixture_worker.py", name, *flags)]
            contenders.append(stack.enter_context(harness.Contender(name, command)))
        answers = harness.take_turns(
            contenders, args.rounds, lambda contender, number: contender.ask(str(number + 1))
        )
    results = summarize(answers)
    for contender in contenders:
        results[contender.name]["first_seconds"] = contender.ready["first_seconds"]
    harness.write_report(
        args,
        load,
        versions={contender.name: contender.ready["versions"] for contender in contenders},
        sizes=sizes,
        rounds=args.rounds,
        cores=os.cpu_count(),
        contenders=results,
    )


if __name__ == "__main__":
    main()
