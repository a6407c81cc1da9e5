"""Runs all benchmarks, one after another, as `make bench` does.

    python experiments/benchmarks/bench.py --data-dir=DATA [--quick] [--only=train,start]

    train     training speed: every contender on MNIST, fewer on other shapes (train_speed.py)
    start     from the command to the first evaluated epoch (first_epoch.py)
    marginal  log p(x) by importance sampling (marginal_speed.py)
    sweep     a whole sweep (sweep_speed.py)
    mapping   the same sweep, with each way to map its members onto the hardware
    members   training speed of S runs in one program (members_speed.py)
    streaming data on disk compared with data in memory (streaming_speed.py)
    scaling   a step's time on several devices (scaling_speed.py)
    classical the Gaussian mixture against scikit-learn, variational Bayes against chains
    explorer  a drag in the page of a run, with Debian's chromium and playwright (explorer_speed.py)

All of them take an hour and a half on the CPU of an otherwise idle machine. The results files go to
results/ beside this file, from which `python -m docs.tools` writes the tables. On an accelerator,
only the contenders that run on it take part, with absolute times, and the files go to
results/<gpu or tpu>/. --quick checks in some minutes that everything runs, and writes to
runs/bench.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from contender import ROOT

BENCHMARKS = Path(__file__).resolve().parent
ALL = "aevb,flax,numpyro,torch_compile,torch_preloaded,torch_dataloader"
FEWER = "aevb,flax,torch_compile,torch_preloaded"
ON_ACCELERATOR = "aevb,flax"
MAPPING_EXAMPLES = 50_000  # for each of 15 members
SWEEP_EXAMPLES = 1_000_000  # for each of 15 members
ON_ACCELERATOR_EXAMPLES = 100_000_000  # as many as in the paper's figure 2


class Benchmark(NamedTuple):
    """A program of this folder, its flags, and the flags that make it short."""

    script: str
    output: str
    flags: list[str]
    quick: list[str]
    needs_data: bool = True


class Shape(NamedTuple):
    """The model and data that train_speed.py trains, and the contenders on the CPU."""

    data: str
    num_latents: int
    batch_size: int
    rounds: int
    contenders: str


SHAPES = (
    Shape("mnist", 20, 100, rounds=9, contenders=f"{ALL},pythae"),
    Shape("mnist", 20, 20, rounds=5, contenders=FEWER),
    Shape("mnist", 20, 1000, rounds=7, contenders=FEWER),
    Shape("frey", 2, 100, rounds=9, contenders=ALL),
    Shape("frey", 20, 100, rounds=7, contenders=FEWER),
)


def training(shape: Shape, on_cpu: bool) -> Benchmark:
    return Benchmark(
        "train_speed.py",
        f"train_{shape.data}_z{shape.num_latents}_b{shape.batch_size}.json",
        [
            f"--data={shape.data}",
            f"--latent-dim={shape.num_latents}",
            f"--batch-size={shape.batch_size}",
            f"--rounds={shape.rounds}",
            f"--contenders={shape.contenders if on_cpu else ON_ACCELERATOR}",
        ],
        quick=["--rounds=1", "--epochs-per-round=1", "--noise-seeds=1"],
    )


def start() -> Benchmark:
    quick = ["--experiments=frey_faces", "--rounds=1"]
    return Benchmark("first_epoch.py", "first_epoch.json", ["--rounds=5"], quick)


def marginal(on_cpu: bool) -> Benchmark:
    flags = ["--contenders=" + ("aevb,torch,torch_compile" if on_cpu else "aevb")]
    quick = ["--rounds=1", "--images=2", "--num-examples=1000"]
    return Benchmark("marginal_speed.py", "marginal_speed.json", flags, quick)


def sweep(on_cpu: bool) -> Benchmark:
    ways = "--ways=" + ("sweep,one_by_one,torch" if on_cpu else "sweep")
    flags = [ways, f"--num-examples={SWEEP_EXAMPLES if on_cpu else ON_ACCELERATOR_EXAMPLES}"]
    return Benchmark(
        "sweep_speed.py",
        "sweep_speed.json",
        flags,
        quick=["--num-examples=1000", "--latents=3,5", "--seeds=0"],
    )


def mapping(on_cpu: bool) -> Benchmark:
    """Returns the benchmark of a sweep's mappings, which is the basis of the default mapping."""
    ways = "--ways=" + ("devices,sequence,stack" if on_cpu else "stack,sequence")
    return Benchmark(
        "sweep_speed.py",
        "mapping_speed.json",
        [ways, f"--num-examples={MAPPING_EXAMPLES}"],
        quick=["--num-examples=1000", "--latents=3,5", "--seeds=0"],
    )


def members(on_cpu: bool) -> Benchmark:
    """Returns the benchmark of stacked runs; only a few sizes on a CPU, where they are slower."""
    sizes = "--members=" + ("1,4,16" if on_cpu else "1,2,4,8,16,32,64,128,256")
    return Benchmark(
        "members_speed.py",
        "members_speed.json",
        ["--data=mnist", "--latent-dim=20", sizes, f"--steps={50 if on_cpu else 1000}"],
        quick=["--members=1,2", "--steps=5"],
    )


def streaming(on_cpu: bool) -> list[Benchmark]:
    """Returns the benchmarks of the time and memory that reading data from disk takes."""
    quick = ["--rounds=1", "--epochs-share=0.01", "--gigabytes=0.05"]
    return [Benchmark("streaming_speed.py", "streaming_speed.json", ["--rounds=7"], quick)][:on_cpu]


def scaling(on_cpu: bool) -> list[Benchmark]:
    """Returns the benchmark of the cost of dividing a step, where the devices are simulated."""
    quick = ["--rounds=1", "--devices=1,2"]
    return [Benchmark("scaling_speed.py", "scaling_speed.json", ["--rounds=7"], quick)][:on_cpu]


def classical(on_cpu: bool) -> list[Benchmark]:
    """Returns the benchmarks that need neither networks nor datasets, and run on the CPU."""
    mixture = Benchmark(
        "mixture_speed.py",
        "mixture_speed.json",
        ["--rounds=5"],
        quick=["--rounds=1", "--points=2000", "--restarts=2"],
        needs_data=False,
    )
    sampling = Benchmark(
        "sampling_speed.py",
        "sampling_speed.json",
        [],
        quick=["--rounds=1", "--draws=100"],
        needs_data=False,
    )
    return [mixture, sampling] if on_cpu else []


def explorer(on_cpu: bool) -> list[Benchmark]:
    """Returns the benchmark of a drag, on the CPU, if chromium and playwright are installed."""
    quick = ["--rounds=1", "--moves=10"]
    page = Benchmark("explorer_speed.py", "explorer_speed.json", [], quick, needs_data=False)
    there = shutil.which("chromium") and importlib.util.find_spec("playwright")
    return [page] if on_cpu and there else []


def benchmarks(on_cpu: bool) -> dict[str, list[Benchmark]]:
    """Returns the benchmarks by their names in --only, in the order in which they run."""
    return {
        "train": [training(shape, on_cpu) for shape in SHAPES],
        "start": [start()],
        "marginal": [marginal(on_cpu)],
        "sweep": [sweep(on_cpu)],
        "mapping": [mapping(on_cpu)],
        "members": [members(on_cpu)],
        "streaming": streaming(on_cpu),
        "scaling": scaling(on_cpu),
        "classical": classical(on_cpu),
        "explorer": explorer(on_cpu),
    }


def command(benchmark: Benchmark, data_dir: Path, results: Path, is_quick: bool) -> list[str]:
    """Returns the command of a benchmark. The later of two equal flags takes effect."""
    return [
        sys.executable,
        str(BENCHMARKS / benchmark.script),
        *([f"--data-dir={data_dir.absolute()}"] if benchmark.needs_data else []),
        f"--output={(results / benchmark.output).absolute()}",
        *benchmark.flags,
        *(benchmark.quick if is_quick else []),
    ]


def backend() -> str:
    """Returns "cpu", "gpu" or "tpu". A separate process asks, so that the device stays free."""
    question = "import jax; print(jax.default_backend())"
    asked = subprocess.run(
        [sys.executable, "-c", question], stdout=subprocess.PIPE, text=True, check=True
    )
    return asked.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(benchmarks(on_cpu=True))
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--quick", action="store_true", help="short, and not for publication")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=names, help=f"default: {names}"
    )
    parser.add_argument("--results", type=Path, help="folder of the results files")
    args = parser.parse_args()
    if unknown := set(args.only) - set(names):
        parser.error(f"--only has {sorted(unknown)}; there are {', '.join(names)}")
    device = backend()
    on_cpu = device == "cpu"
    results = args.results or (ROOT / "runs" / "bench" if args.quick else BENCHMARKS / "results")
    results = results if on_cpu else results / device
    began = time.monotonic()
    for name in args.only:
        for benchmark in benchmarks(on_cpu)[name]:
            minutes = (time.monotonic() - began) / 60
            print(f"\n=== {benchmark.output}, after {minutes:.0f} minutes", flush=True)
            subprocess.run(command(benchmark, args.data_dir, results, args.quick), check=True)
    print(f"\nresults in {results}, after {(time.monotonic() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
