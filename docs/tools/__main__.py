"""Writes the tables and figures of README.md and docs/*.md from the results files.

    python -m docs.tools

Between the marks `<!-- NAME -->` and `<!-- end -->` of a document is the output of `TABLES[NAME]`
for the committed results. A test checks that the two agree.
"""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aevb.reports import figures
from experiments.paper.reproduce import RESULTS as REPRODUCED
from experiments.paper.reproduce import ROWS

from . import classical, scaling
from .documents import BENCHMARKS, IN_FULL, MISSING, RESULTS, ROOT, filled_in, read, table

DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "docs" / "results.md",
    ROOT / "docs" / "estimators.md",
    ROOT / "docs" / "speed.md",
    ROOT / "docs" / "scaling.md",
)
CURVES = ROOT / "docs" / "curves.png"
SPEEDS = ROOT / "docs" / "speed.png"
GRADIENTS = ROOT / "docs" / "gradient_variance.png"

HEADLINE = ("frey_blocked_2", "frey_random_20", "binarized_mnist_20")

# The order in tables and figures, with a short name for the figures.
CONTENDERS = {
    "aevb": ("aevb", "aevb"),
    "numpyro": ("NumPyro, SVI in one compiled loop", "NumPyro"),
    "flax": ("Flax, a jitted step in a loop of Python", "Flax"),
    "torch_compile": ("PyTorch, preloaded tensor, `torch.compile`", "PyTorch, compiled"),
    "torch_preloaded": ("PyTorch, preloaded tensor", "PyTorch, preloaded"),
    "torch_dataloader": ("PyTorch, TensorDataset and DataLoader", "PyTorch, DataLoader"),
    "pythae": ("pythae", "pythae"),
}
SHAPES = {
    "train_mnist_z20_b20": "MNIST 784-500-20, minibatches of 20",
    "train_mnist_z20_b100": "MNIST 784-500-20, minibatches of 100",
    "train_mnist_z20_b1000": "MNIST 784-500-20, minibatches of 1000",
    "train_frey_z2_b100": "Frey faces 560-200-2, minibatches of 100",
    "train_frey_z20_b100": "Frey faces 560-200-20, minibatches of 100",
}
DRAWN = (IN_FULL, "train_frey_z2_b100")
WAYS = {
    "sweep": "one `run.py --sweep`",
    "one_by_one": "a `run.py` for each member",
    "torch": "PyTorch, one process, trained only",
    "devices": "`devices`: as many at a time as there are cores",
    "sequence": "`sequence`: one after the other, on all cores",
    "stack": "`stack`: one program",
}

AXES = {
    "num_data": "N, datapoints",
    "num_dims": "D, data dimensions",
    "num_latents": "Z, latent dimensions",
    "hidden": "H, hidden units",
    "batch_size": "M, minibatch",
    "num_samples": "L, samples",
    "importance_samples": "K, importance samples",
    "num_members": "S, members of a stack",
}
COSTS = {
    "step_seconds": "ms a step",
    "shuffle_seconds": "ms a shuffle",
    "evaluation_seconds": "ms an evaluation",
    "importance_seconds": "ms a log p(x)",
    "step_temp_bytes": "MB for a step",
    "importance_temp_bytes": "MB for a log p(x)",
    "peak_mib": "MiB at most",
}


def bounds_of(result: Mapping[str, float]) -> list[str]:
    """Returns the mean ± standard error over seeds of the train and the test bound."""
    return [
        f"{result[f'{split}_bound']:.1f} ± {result[f'{split}_bound_standard_error']:.1f}"
        for split in ("train", "test")
    ]


def results_table() -> str:
    """Returns mean ± standard error over seeds of the bound on all of each split."""
    report = read(REPRODUCED)
    rows = []
    for name, row in ROWS.items():
        result = report["rows"][name]
        finished = [run for run in result["runs"] if "failed" not in run]
        bounds = bounds_of(result)
        bits = [run["test_bits_per_dim"] for run in finished if "test_bits_per_dim" in run]
        examples = f"{finished[0]['num_examples'] / 1e6:g}·10⁶"
        bits_text = f"{np.mean(bits):.2f}" if bits else ""
        rows.append([row.title, examples, *bounds, bits_text, str(len(finished))])
    header = ["", "examples", "train bound (nats)", "test bound (nats)", "test bits/dim", "seeds"]
    return table(header, rows)


def headline_table() -> str:
    """Returns the results table's train and test bounds for three of its rows."""
    report = read(REPRODUCED)
    rows = []
    for name in HEADLINE:
        result = report["rows"][name]
        bounds = bounds_of(result)
        seeds = sum("failed" not in run for run in result["runs"])
        rows.append([ROWS[name].title, *bounds, str(seeds)])
    return table(["", "train bound (nats)", "test bound (nats)", "seeds"], rows)


def measured(files: Mapping[str, str]) -> dict[str, str]:
    """Returns those of a benchmark's files that exist."""
    return {file: title for file, title in files.items() if (BENCHMARKS / f"{file}.json").exists()}


def speed_table() -> str:
    """Returns medians over rounds of the paired benchmark, and its ratios."""
    report = read(BENCHMARKS / f"{IN_FULL}.json")
    rows = []
    for name, (title, _) in CONTENDERS.items():
        result = report["contenders"][name]
        rate, ratio = result["examples_per_second"], result["ratio"]
        rows.append(
            [
                title,
                f"{rate['median']:,.0f}",
                "" if name == "aevb" else f"{ratio['median']:.2f}",
                f"{result['of_limit']['median']:.2f}",
                f"{result['cpu_per_wall']:.2f}",
                f"{result['peak_mib']:.0f}",
                f"{result['test_bound']:.1f}",
            ]
        )
    limit = report["limit"]
    rate = f"{limit['examples_per_second']['median']:,.0f}"
    cpu = f"{limit['cpu_per_wall']:.2f}"
    rows.append(["the matrix products alone", rate, "", "1", cpu, "", ""])
    header = ["", "examples/s", "aevb's speed over it", "of the limit"]
    return table([*header, "cpu/wall", "MiB", "test bound"], rows)


def bound_noise_table() -> str:
    """Returns the differences between the contenders' bounds, beside those between aevb's seeds."""
    report = read(BENCHMARKS / f"{IN_FULL}.json")
    noise, epochs = report["bound_noise"], report["epochs_trained"]
    bounds = [result["test_bound"] for result in report["contenders"].values()]
    rows = [
        [f"aevb, {len(noise['bounds'])} seeds", noise["mean"], noise["standard_deviation"]],
        [f"all {len(bounds)} contenders", statistics.fmean(bounds), statistics.stdev(bounds)],
    ]
    header = [f"test bound after {epochs} epochs (nats)", "mean", "standard deviation"]
    return table(header, [[name, f"{mean:.1f}", f"{std:.1f}"] for name, mean, std in rows])


def shapes_table() -> str:
    """Returns aevb's speed at every shape, and its ratio to the speed of some peers."""
    peers = ("flax", "torch_compile", "torch_preloaded")
    rows = []
    for file, title in measured(SHAPES).items():
        contenders = read(BENCHMARKS / f"{file}.json")["contenders"]
        ours = contenders["aevb"]
        ratios = [f"{contenders[name]['ratio']['median']:.2f}" for name in peers]
        rate = f"{ours['examples_per_second']['median']:,.0f}"
        rows.append([title, rate, f"{ours['of_limit']['median']:.2f}", *ratios])
    names = [f"over {CONTENDERS[name][1]}" for name in peers]
    return table(["", "aevb, examples/s", "of the limit", *names], rows)


def sweep_table(file: str) -> str:
    """Returns the time and memory of a whole sweep, and the bounds of its models."""
    report = read(BENCHMARKS / f"{file}.json")
    rows = []
    for name, result in report["ways"].items():
        bounds = [f"{bound:.1f}" for bound in result["test_bound"].values()]
        cells = [f"{result['seconds']['median']:.0f} s", f"{result['peak_mib']:.0f}", *bounds]
        rows.append([WAYS[name], *cells])
    latents = next(iter(report["ways"].values()))["test_bound"]
    header = [f"{report['num_members']} members, {report['num_examples']:,} examples each"]
    return table([*header, "time", "MiB", *(f"bound, Z = {Z}" for Z in latents)], rows)


def members_table() -> str:
    """Returns examples/s of S runs in one program, on each kind of device that was measured."""
    kinds = {"": "CPU", "gpu": "GPU", "tpu": "TPU"}
    reports = {
        kind: read(path)
        for folder, kind in kinds.items()
        if (path := BENCHMARKS / folder / "members_speed.json").exists()
    }
    sizes = sorted({row["members"] for report in reports.values() for row in report["rows"]})
    rows = []
    for kind, report in reports.items():
        rates = {row["members"]: f"{row['examples_per_second']:,.0f}" for row in report["rows"]}
        device = report["machine"]["processor"] if kind == "CPU" else report["device"]
        rows.append([f"{kind}: {device}", *(rates.get(size, "") for size in sizes)])
    if "GPU" not in reports:
        rows.append(["GPU: not measured yet", *([""] * len(sizes))])
    return table(["examples/s, all members together", *(f"S = {S}" for S in sizes)], rows)


def speeds_of(file: str) -> figures.Speeds:
    report = read(BENCHMARKS / f"{file}.json")

    def rates(result: Mapping[str, Any]) -> list[float]:
        return [each["examples"] / each["seconds"] for each in result["rounds"]]

    contenders = {
        short: rates(report["contenders"][name])
        for name, (_, short) in CONTENDERS.items()
        if name in report["contenders"]
    }
    return figures.Speeds(contenders, rates(report["limit"]))


def start_table() -> str:
    """Returns the median seconds from the command to the first finished epoch."""
    seconds = read(BENCHMARKS / "first_epoch.json")["seconds"]
    rows = [
        [f"`{name}`", f"{starts['cold']['median']:.1f} s", f"{starts['warm']['median']:.1f} s"]
        for name, starts in seconds.items()
    ]
    return table(["to the first evaluated epoch", "first time", "later"], rows)


def agreement_table() -> str:
    """Returns the bounds of the independent PyTorch program beside those of aevb."""
    rows = []
    for name, result in read(BENCHMARKS / "agreement.json")["rows"].items():
        for split, compared in result.items():
            both = [
                f"{compared[who]['mean']:.1f} ± {compared[who]['standard_error']:.1f}"
                for who in ("aevb", "torch")
            ]
            apart = f"{compared['difference_in_standard_errors']:+.1f}"
            rows.append([f"{ROWS[name].title}, {split}", *both, apart])
    return table(["", "aevb (nats)", "PyTorch (nats)", "standard errors apart"], rows)


def gradient_table() -> str:
    """Returns the variance of each bound's gradient, in the encoder and in the decoder."""
    report = read(RESULTS / "gradient_variance.json")
    rows = []
    for name in report["points"][0]["bounds"]:
        cells = []
        for part in ("encoder", "decoder"):
            for number, point in enumerate(report["points"]):
                each = [run[number]["bounds"][name][part] for run in report["runs"]]
                figure = point["bounds"][name][part]
                cells.append(
                    f"{np.median(each):.3g} ({figure['mean']:.2g} ± {figure['standard_error']:.1g})"
                )
        bias = [point["bounds"][name].get("bias_in_standard_errors") for point in report["points"]]
        cells.append(", ".join(f"{each['mean']:.2f}" for each in bias if each))
        seconds = report["points"][-1]["bounds"][name]["seconds"]["mean"]
        cells.append(f"{1000 * seconds:.0f}")
        rows.append([f"`{name}`", *cells])
    counts = [f"{point['examples']:,}" for point in report["points"]]
    header = [f"{part}, {count}" for part in ("φ", "θ") for count in counts]
    return table(["", *header, "bias, in standard errors", "ms a gradient"], rows)


def marginal_table(*files: str) -> str:
    """Returns bounds on log p(x) from both sides, their errors and the gap between them.

    Args:
        files: results files for the same datapoints.
    """
    reports = [read(RESULTS / f"{file}.json") for file in files]
    rows = {}
    for report in reports:
        for name, row in report["estimators"].items():
            pareto_k = row.get("pareto_k", {"median": None})["median"]
            rows[f"`{name}`", row["proposal"]] = [
                row["kind"],
                f"{row['mean']:.3f}",
                f"{row['standard_error']:.3f}",
                f"{row['estimator_standard_error']:.4f}",
                "" if pareto_k is None else f"{pareto_k:.2f}",
            ]
        for pair, gap in report["sandwich"].items():
            width = ["width", f"{gap['mean']:.3f}", f"{gap['standard_error']:.3f}", "", ""]
            rows[pair, ""] = width
    header = [
        f"{reports[0]['data']['num_points']:,} test images",
        "starts from",
        "bound",
        "nats",
        "s.e. over data",
        "s.e. of the estimator",
        "Pareto k",
    ]
    return table(header, [[*names, *cells] for names, cells in rows.items()])


def marginal_speed_table() -> str:
    """Returns medians of the paired benchmark of log p(x)."""
    rows = []
    for name, result in read(BENCHMARKS / "marginal_speed.json")["contenders"].items():
        memory = result["peak_mib"]
        rows.append(
            [
                name,
                f"{result['images_per_second']['median']:.1f}",
                "" if name == "aevb" else f"{result['ratio']['median']:.2f}",
                f"{result['log_p']:.2f}",
                f"{memory['few']:.0f} and {memory['many']:.0f}",
            ]
        )
    header = ["", "images/s", "aevb is faster by", "mean log p(x)", "MiB at K = 500 and 50,000"]
    return table(header, rows)


def cost_table() -> str:
    """Returns each figure at the first and last size of an axis, and the slope at the end.

    The slope is that between the last two sizes.
    """
    scale = {"seconds": 1e3, "bytes": 1e-6, "mib": 1.0}
    rows = []
    for axis, result in read(BENCHMARKS / "cost.json")["axes"].items():
        first, last = result["points"][0], result["points"][-1]
        cells = []
        for name in COSTS:
            unit, growth = scale[name.split("_")[-1]], result["growth"][name]
            slope = f"{growth['slope'] + 0.0:.2f} ({growth['expected']:g})"
            mark = " !" if growth["surprise"] else ""
            cells.append(f"{unit * first[name]:.3g} → {unit * last[name]:.3g}; {slope}{mark}")
        sizes = result["sizes"]
        rows.append([f"{AXES[axis]}: {sizes[0]:,} → {sizes[-1]:,}", *cells])
    return table(["", *COSTS.values()], rows)


def explorer_table() -> str:
    """Returns the milliseconds that a drag takes."""

    def cell(times: dict[str, float]) -> str:
        return f"{times['median']:.1f} ({times['p95']:.1f})"

    file = BENCHMARKS / "explorer_speed.json"
    rows = [
        [title, cell(it["handler_ms"]), cell(it["painted_ms"]), f"{1e-6 * it['page_bytes']:.1f}"]
        for title, it in (read(file)["pages"] if file.exists() else {}).items()
    ]
    header = ["", "handler, ms", "to the end of the frame, ms", "page, MB"]
    return table(header, rows) if rows else MISSING


TABLES: Mapping[str, Callable[[], str]] = {
    "headline": headline_table,
    "results": results_table,
    "speed": speed_table,
    "bound noise": bound_noise_table,
    "shapes": shapes_table,
    "sweep": lambda: sweep_table("sweep_speed"),
    "mapping": lambda: sweep_table("mapping_speed"),
    "members": members_table,
    "start": start_table,
    "agreement": agreement_table,
    "gradients": gradient_table,
    "marginal 3": lambda: marginal_table("marginal_3"),
    "marginal 20": lambda: marginal_table("marginal_20_encoder", "marginal_20"),
    "marginal speed": marginal_speed_table,
    "explorer": explorer_table,
    "cost": cost_table,
    "mixture": classical.mixture,
    "sampling": classical.sampling,
    "streaming": scaling.streaming_table,
    "held": scaling.held_table,
    "one device": scaling.alone_table,
    "devices": scaling.devices_table,
    "on paper": scaling.paper_table,
}


def main() -> None:
    for document in DOCUMENTS:
        document.write_text(filled_in(document.read_text(), TABLES))
    rows = read(REPRODUCED)["rows"]
    curves = {
        ROWS[name].title.replace("`", ""): [run["curve"] for run in rows[name]["runs"]]
        for name in ROWS
        if ROWS[name].num_seeds == 3
    }
    figures.save(figures.bound_curves(curves), str(CURVES))
    panels = {title: speeds_of(file) for file, title in measured(SHAPES).items() if file in DRAWN}
    figures.save(figures.speeds(panels), str(SPEEDS))
    runs = read(RESULTS / "gradient_variance.json")["runs"]
    variances = {
        name: [
            float(np.median([point["bounds"][name]["encoder"] for point in same_point]))
            for same_point in zip(*runs, strict=True)
        ]
        for name in runs[0][0]["bounds"]
    }
    examples = [point["examples"] for point in runs[0]]
    figures.save(figures.gradient_variance(examples, variances), str(GRADIENTS))


if __name__ == "__main__":
    main()
