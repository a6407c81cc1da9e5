"""Runs all benchmarks, one after another, as `make bench` does.

    python experiments/benchmarks/bench.py --data-dir=DATA [--quick] [--only=train,start]

    train     training speed: every contender on MNIST, fewer on other shapes (train_speed.py)
    kinds     speed of other models, bounds and optimizers, and of evaluations (kinds_speed.py)
    start     from the command to the first evaluated epoch, and to the end of a short run
    marginal  log p(x) by importance sampling (marginal_speed.py)
    sweep     a whole sweep (sweep_speed.py)
    mapping   the same sweep, with each way to map its members onto the hardware
    members   training speed of S runs in one program (members_speed.py)
    streaming data on disk compared with data in memory (streaming_speed.py)
    scaling   a step's time on several devices (scaling_speed.py)
    classical the Gaussian mixture against scikit-learn's, variational Bayes against chains
    explorer  a drag in the page of a run, with Debian's chromium and playwright (explorer_speed.py)

All of them take two and a half hours on the CPU of an otherwise idle machine. The results files go
to results/ beside this file, from which `python -m docs.tools` writes the tables. On an
accelerator, only the contenders that run on it take part, with absolute times, and the files go to
results/<gpu or tpu>/. --quick checks in a few minutes that everything runs, and writes to
runs/bench.
"""

import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import harness


class Benchmark(NamedTuple):
    """A program of this folder and its flags; if a flag is given twice, the later value counts."""

    script: str
    flags: str = ""
    quick: str = ""  # added by --quick
    accelerator: str | None = None  # added on an accelerator; None: only for the CPU
    name: str = ""  # of the results file (default: the script's)
    needs_data: bool = True

    @property
    def output(self) -> str:
        return f"{self.name or self.script}.json"


def training(data: str, latents: int, batch: int, rounds: int, contenders: str) -> Benchmark:
    return Benchmark(
        "train_speed",
        f"--data={data} --latent-dim={latents} --batch-size={batch} --rounds={rounds} "
        f"--contenders={contenders}",
        "--rounds=1 --epochs-per-round=1 --noise-seeds=1",
        "--contenders=aevb,flax",
        f"train_{data}_z{latents}_b{batch}",
    )


FEWER = "aevb,flax,torch_compile,torch_preloaded"
ALL = f"{FEWER},numpyro,torch_dataloader"
QUICK_SWEEP = "--num-examples=1000 --latents=3,5 --seeds=0"
BY_NAME = {
    "train": [
        training("mnist", 20, 100, 9, f"{ALL},pythae"),
        training("mnist", 20, 20, 5, FEWER),
        training("mnist", 20, 1000, 7, FEWER),
        training("frey", 2, 100, 9, ALL),
        training("frey", 20, 100, 7, FEWER),
    ],
    "kinds": [
        Benchmark(
            "kinds_speed", "--rounds=7",
            "--kinds=iwae_5,full_vb --rounds=1 --steps=5 --noise-seeds=0", name="kinds",
        )
    ],
    "start": [
        Benchmark("first_epoch", "--rounds=5", "--experiments=figure_4_frey --rounds=1", ""),
        Benchmark("fixed_cost", quick="--works=frey --rounds=1"),
    ],
    "marginal": [
        Benchmark(
            "marginal_speed",
            quick="--rounds=1 --images=2 --num-examples=1000",
            accelerator="--contenders=aevb",
        )
    ],
    "sweep": [  # on an accelerator with as many examples as in the paper's figure 2
        Benchmark(
            "sweep_speed", "--num-examples=1000000", QUICK_SWEEP,
            "--ways=sweep --num-examples=100000000",
        )
    ],
    "mapping": [  # the basis of the default mapping
        Benchmark(
            "sweep_speed", "--ways=devices,sequence,stack --num-examples=50000", QUICK_SWEEP,
            "--ways=stack,sequence", "mapping_speed",
        )
    ],
    "members": [  # only a few sizes on a CPU, where stacked runs are slower
        Benchmark(
            "members_speed", "--data=mnist --latent-dim=20 --members=1,4,16 --steps=50",
            "--members=1,2 --steps=5", "--members=1,2,4,8,16,32,64,128,256 --steps=1000",
        )
    ],
    "streaming": [
        Benchmark(
            "streaming_speed", "--rounds=7", "--rounds=1 --epochs-share=0.01 --gigabytes=0.05"
        )
    ],
    "scaling": [Benchmark("scaling_speed", "--rounds=7", "--rounds=1 --devices=1,2")],
    "classical": [
        Benchmark(
            "mixture_speed", "--rounds=5", "--rounds=1 --points=2000 --restarts=2",
            needs_data=False,
        ),
        Benchmark(
            "mixture_counts", quick="--sets=1 --situations=three_few", needs_data=False
        ),
        Benchmark("sampling_speed", quick="--rounds=1 --draws=100", needs_data=False),
    ],
    "explorer": [Benchmark("explorer_speed", quick="--rounds=1 --moves=10", needs_data=False)],
}  # fmt: skip


def benchmarks(name: str, on_cpu: bool) -> list[Benchmark]:
    """Returns the benchmarks of a name in `BY_NAME` that can run on this machine."""
    if name == "explorer" and not (
        shutil.which("chromium") and importlib.util.find_spec("playwright")
    ):
        return []
    return [each for each in BY_NAME[name] if on_cpu or each.accelerator is not None]


def command(
    benchmark: Benchmark, data_dir: Path, results: Path, *, on_cpu: bool, is_quick: bool
) -> list[str]:
    flags = [benchmark.flags]
    flags += [] if on_cpu else [benchmark.accelerator or ""]
    flags += [benchmark.quick] if is_quick else []
    return harness.command_of(
        f"{benchmark.script}.py",
        *([f"--data-dir={data_dir.absolute()}"] if benchmark.needs_data else []),
        f"--output={(results / benchmark.output).absolute()}",
        *" ".join(flags).split(),
    )


def backend() -> str:
    """Returns "cpu", "gpu" or "tpu"; a separate process asks jax, so that the device stays free."""
    question = "import jax; print(jax.default_backend())"
    asked = subprocess.run(
        [sys.executable, "-c", question], stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    return asked.stdout.strip()


def main() -> None:
    parser = harness.argument_parser(__doc__, needs_data=True)
    parser.add_argument("--quick", action="store_true", help="short, and not for publication")
    harness.add_choices(parser, "--only", BY_NAME)
    args = parser.parse_args()
    device = backend()
    on_cpu = device == "cpu"
    results = args.output or (
        harness.ROOT / "runs" / "bench" if args.quick else harness.BENCHMARKS / "results"
    )
    results = results if on_cpu else results / device
    began = time.monotonic()
    for name in args.only:
        for benchmark in benchmarks(name, on_cpu):
            minutes = (time.monotonic() - began) / 60
            print(f"\n=== {benchmark.output}, after {minutes:.0f} minutes", flush=True)
            words = command(benchmark, args.data_dir, results, on_cpu=on_cpu, is_quick=args.quick)
            subprocess.run(words, check=True)
    print(f"\nresults in {results}, after {(time.monotonic() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
