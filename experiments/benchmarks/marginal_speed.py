"""Compares the speed of log p(x) by importance sampling, aevb against PyTorch, in paired rounds.

    python experiments/benchmarks/marginal_speed.py [--data-dir=DATA] [--rounds=7]

A 784-500-20 model of binarized MNIST is trained briefly and given to every contender, with some
test images. In each round every contender in turn estimates log p(x) of these images with 5000
importance samples each, on one machine. A contender's ratio is its time divided by aevb's. The
results have the difference between the estimates, and the peak memory after K = 500 and after
K = 50,000. PyTorch needs its own environment: see requirements.txt beside this file.
"""

import contextlib
import statistics
import tempfile
from pathlib import Path
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np

from aevb.config import default_config, validate
from aevb.experiment import build
from aevb.training import loop

NUM_SAMPLES = 5000
FEW, MANY = 500, 50_000  # sample counts between which the memory must not grow
SCRIPTS = {
    "aevb": ["aevb_marginal_worker.py"],
    "torch": ["torch_marginal_worker.py"],
    "torch_compile": ["torch_marginal_worker.py", "--compile"],
}


def write_model(path: Path, num_examples: int, num_images: int, data_dir: Path | None) -> None:
    """Trains the model briefly, and writes its parameters and test images into one file."""
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


def summarize(answers: dict[str, list[dict]], num_images: int) -> dict[str, Any]:
    """Returns each contender's speed, ratio and estimates."""
    seconds = {name: [answer["seconds"] for answer in done] for name, done in answers.items()}
    ours = next(iter(answers))
    results = {}
    for name, done in answers.items():
        off = np.array(done[0]["log_p"]) - np.array(answers[ours][0]["log_p"])
        results[name] = {
            "images_per_second": harness.summary([num_images / each for each in seconds[name]]),
            "ratio": harness.ratios(seconds[name], seconds[ours]),
            "cpu_per_wall": statistics.median(a["cpu_seconds"] / a["seconds"] for a in done),
            "log_p": float(np.mean(done[0]["log_p"])),
            "log_p_off": float(np.mean(off)),
            "log_p_off_standard_error": float(np.std(off) / np.sqrt(len(off))),
        }
    return results


def main() -> None:
    parser = harness.argument_parser(__doc__, rounds=7, needs_data=False)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--num-examples", type=int, default=500_000, help="of training")
    harness.add_choices(parser, "--contenders", SCRIPTS)
    harness.add_peers(parser)
    args = parser.parse_args()
    if args.contenders != ["aevb"]:
        harness.require_peers(parser, args)
    load = harness.load_of_others()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        model = Path(folder) / "model.npz"
        write_model(model, args.num_examples, args.images, args.data_dir)
        contenders = []
        for name in args.contenders:
            script, *flags = SCRIPTS[name]
            python = None if name == "aevb" else args.bench_python
            command = harness.command_of(script, str(model), *flags, python=python)
            contenders.append(stack.enter_context(harness.Contender(name, command)))
        request = f"{args.images} {NUM_SAMPLES}"
        answers = harness.take_turns(
            contenders, args.rounds, lambda contender, _: contender.ask(request)
        )
        results = summarize(answers, args.images)
        for contender in contenders:
            few, many = (contender.ask(f"1 {size}")["peak_kib"] / 1024 for size in (FEW, MANY))
            results[contender.name]["peak_mib"] = {"few": few, "many": many}
    harness.write_report(
        args,
        load,
        versions={contender.name: contender.ready["versions"] for contender in contenders},
        images=args.images,
        num_samples=NUM_SAMPLES,
        rounds=args.rounds,
        contenders=results,
    )


if __name__ == "__main__":
    main()
