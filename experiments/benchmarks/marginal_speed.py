"""Compares the speed of log p(x) by importance sampling, aevb against PyTorch, in paired rounds.

    python experiments/benchmarks/marginal_speed.py [--data-dir=DATA] [--rounds=7]

A 784-500-20 model of binarized MNIST is trained briefly and given to every contender, with some
test images. In each round every contender in turn estimates log p(x) of these images with 5000
importance samples each, on one machine. The ratio is its time divided by aevb's. The program checks
that the estimates agree, and reads the peak memory after K = 500 and after K = 50,000. PyTorch
needs its own environment: see requirements.txt beside this file.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from contender import ROOT, Contender, in_turn, load_of_others, summary, write_report

BENCHMARKS = Path(__file__).resolve().parent
NUM_SAMPLES = 5000
FEW, MANY = 500, 50_000  # sample counts between which the memory must not grow
SCRIPTS = {
    "aevb": ["aevb_marginal_worker.py"],
    "torch": ["torch_marginal_worker.py"],
    "torch_compile": ["torch_marginal_worker.py", "--compile"],
}


def write_model(path: Path, num_examples: int, num_images: int, data_dir: Path | None) -> None:
    """Trains the model briefly, and writes its parameters and test images into one file."""
    import jax
    import jax.numpy as jnp

    from aevb.config import default_config, validate
    from aevb.experiment import build
    from aevb.training import loop

    config = default_config()
    config.data.name = "binarized_mnist"
    config.model.update(hidden=(500,), num_latents=20, likelihood="bernoulli")
    config.data.manual_dir = str(data_dir.absolute()) if data_dir else ""
    dataset, _, algorithm = build(validate(config))
    keys = loop.LoopKeys(*jax.random.split(jax.random.key(0)))
    advance = loop.make_advance(algorithm, dataset.preprocess, batch_size=100)
    state = jax.jit(algorithm.init)(jax.random.key(1))
    state, _ = loop.train_to(advance, keys, jnp.asarray(dataset.train), state, num_examples // 100)
    leaves: dict[str, Any] = {
        "/".join(str(entry.key) for entry in path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(state.params)
    }
    images = dataset.test[:: len(dataset.test) // num_images][:num_images].astype(np.float32)
    np.savez(path, images=images, **leaves)


def compare(contenders: list[Contender], rounds: int, num_images: int) -> dict[str, Any]:
    """Runs rounds in turn, and returns each contender's speed, ratio, estimates and memory."""
    answers: dict[str, list[dict]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in in_turn(contenders, number):
            answers[contender.name].append(contender.ask(f"{num_images} {NUM_SAMPLES}"))
        rates = {name: num_images / done[-1]["seconds"] for name, done in answers.items()}
        print(f"round {number + 1}/{rounds}, images/s: {rates}", flush=True)
    memory = {
        contender.name: [contender.ask(f"1 {size}")["peak_kib"] for size in (FEW, MANY)]
        for contender in contenders
    }
    ours = answers[contenders[0].name]
    results = {}
    for name, done in answers.items():
        off = np.array(done[0]["log_p"]) - np.array(ours[0]["log_p"])
        results[name] = {
            "images_per_second": summary([num_images / a["seconds"] for a in done]),
            "ratio": summary(
                [a["seconds"] / b["seconds"] for a, b in zip(done, ours, strict=True)]
            ),
            "cpu_per_wall": statistics.median(a["cpu_seconds"] / a["seconds"] for a in done),
            "log_p": float(np.mean(done[0]["log_p"])),
            "log_p_off": float(np.mean(off)),
            "log_p_off_standard_error": float(np.std(off) / np.sqrt(len(off))),
            "peak_mib": dict(zip(("few", "many"), (m / 1024 for m in memory[name]), strict=True)),
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--num-examples", type=int, default=500_000, help="of training")
    parser.add_argument("--contenders", default=",".join(SCRIPTS), help="(default: all)")
    parser.add_argument("--bench-python", type=Path, default=ROOT / ".venv-bench/bin/python")
    parser.add_argument("--output", type=Path, default=BENCHMARKS / "results/marginal_speed.json")
    parser.add_argument("--data-dir", type=Path, help="folder of the data sets' files")
    args = parser.parse_args()
    names = args.contenders.split(",")
    if unknown := set(names) - set(SCRIPTS):
        parser.error(f"--contenders has {sorted(unknown)}; there are {', '.join(SCRIPTS)}")
    if names != ["aevb"] and not args.bench_python.exists():
        parser.error(
            f"no {args.bench_python}: {BENCHMARKS / 'requirements.txt'} says how to make it"
        )
    load = load_of_others()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        model = Path(folder) / "model.npz"
        write_model(model, args.num_examples, args.images, args.data_dir)
        contenders, versions = [], {}
        for name in names:
            python = sys.executable if name == "aevb" else str(args.bench_python.absolute())
            script, *flags = SCRIPTS[name]
            command = [python, str(BENCHMARKS / script), str(model), *flags]
            contenders.append(stack.enter_context(Contender(name, command)))
            versions[name] = contenders[-1].read_answer()["versions"]
        results = compare(contenders, args.rounds, args.images)
    write_report(
        args.output,
        command="python experiments/benchmarks/marginal_speed.py --data-dir=DATA "
        f"--rounds={args.rounds} --images={args.images} --num-examples={args.num_examples} "
        f"--contenders={args.contenders}",
        load=load,
        versions=versions,  # of the contenders, instead of ours
        images=args.images,
        num_samples=NUM_SAMPLES,
        rounds=args.rounds,
        contenders=results,
    )
    print(results)


if __name__ == "__main__":
    main()
