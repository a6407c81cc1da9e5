"""Measures what a short run costs besides its training: wall time, CPU time and compilation.

    python experiments/benchmarks/fixed_cost.py --data-dir=DATA [--earlier=CLONE] [--works=frey,...]

Each run is `experiments/run.py` as a user types it, from the command to its end. A cold run has an
empty compilation cache, and the warm run after it has the cache that the cold run filled. The cost
is the time besides the training that the run itself reports. Programs are those that XLA compiles
or takes from the cache. --earlier names a clone of an earlier commit, which takes turns with this
one.
"""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import harness

COMPILED = re.compile(r"Finished XLA compilation of .* in ([0-9.e-]+) sec")
MNIST = "--config=binarized_mnist --config.train.num_examples=20000"
WORKS = {  # flags of run.py; the config is the name of a file in experiments/
    "frey": "--config=figure_4_frey --config.train.num_examples=100000",
    "frey_sweep": "--config=figure_4_frey --config.train.num_examples=100000 --sweep "
    "--mapping=sequence --axis seed=0,1,2,3 --axis model.num_latents=2",
    "mnist": MNIST,
    "conv": f"{MNIST} --config.model.network=conv --config.model.hidden=32,64",
}


class Cost(NamedTuple):
    """The measurements of one run, or of one sweep."""

    wall_seconds: float
    cpu_seconds: float
    training_seconds: float
    compilation_seconds: float
    num_programs: int

    @property
    def fixed_seconds(self) -> float:
        return self.wall_seconds - self.training_seconds


def run(clone: Path, work: str, cache: Path, data_dir: Path) -> Cost:
    """Runs a work of WORKS with the package of a clone, in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        config, *flags = WORKS[work].split()
        config = f"{clone / 'experiments' / config.removeprefix('--config=')}.py"
        command = [
            sys.executable, str(clone / "experiments" / "run.py"), f"--config={config}",
            *flags, f"--workdir={folder}/run", f"--config.data.manual_dir={data_dir.absolute()}",
        ]  # fmt: skip
        environment = {
            **os.environ,
            "PYTHONPATH": str(clone),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_LOG_COMPILES": "1",
        }
        cpu, began = _children_seconds(), time.perf_counter()
        ended = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
        wall, cpu = time.perf_counter() - began, _children_seconds() - cpu
        if ended.returncode:
            raise SystemExit(f"{work}: run.py ended with {ended.returncode}: {ended.stderr[-500:]}")
        compiled = [float(seconds) for seconds in COMPILED.findall(ended.stderr)]
        summaries = [
            json.loads(file.read_text(encoding="utf-8"))
            for file in Path(folder).rglob("summary.json")
        ]
        training = sum(summary["seconds"] for summary in summaries)
        return Cost(wall, cpu, training, sum(compiled), len(compiled))


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def summarize(costs: list[Cost]) -> dict[str, Any]:
    names = [*Cost._fields, "fixed_seconds"]
    return {name: harness.summary([getattr(cost, name) for cost in costs]) for name in names}


def measure(clones: dict[str, Path], work: str, args: Any) -> dict[str, Any]:
    """Returns the costs of a work by clone and kind of start, and their ratios per round."""
    costs: dict[tuple[str, str], list[Cost]] = {}
    for number in range(args.rounds):
        for name, clone in harness.in_turn([*clones.items()], number):
            with tempfile.TemporaryDirectory() as cache:
                for start in ("cold", "warm"):
                    cost = run(clone, work, Path(cache), args.data_dir)
                    costs.setdefault((name, start), []).append(cost)
                    print(f"{work} {name} {start}: {cost}", flush=True)
    found: dict[str, Any] = {}
    for (name, start), done in costs.items():
        found.setdefault(name, {})[start] = summarize(done)
    if "earlier" in found:
        for start in ("cold", "warm"):
            ours, theirs = (
                [cost.fixed_seconds for cost in costs[name, start]] for name in ("now", "earlier")
            )
            found["now"][start]["fixed_ratio"] = harness.ratios(ours, theirs)
    return found


def main() -> None:
    parser = harness.argument_parser(__doc__, rounds=3, needs_data=True)
    parser.add_argument("--earlier", type=Path, help="a clone at an earlier commit")
    parser.add_argument("--earlier-commit", default="", help="its name, for the report")
    harness.add_choices(parser, "--works", WORKS)
    args = parser.parse_args()
    clones = {"now": harness.ROOT}
    if args.earlier:
        clones["earlier"] = args.earlier.absolute()
    load = harness.load_of_others()
    harness.write_report(
        args,
        load,
        rounds=args.rounds,
        flags=WORKS,
        costs={work: measure(clones, work, args) for work in args.works},
    )


if __name__ == "__main__":
    main()
