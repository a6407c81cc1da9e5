"""The tables of docs/speed.md: training, other models, sweeps, classical models, pages, cost."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure

from . import plots
from .documents import BENCHMARKS, IN_FULL, benchmark, read, spread, table

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
    IN_FULL: "MNIST 784-500-20, minibatches of 100",
    "train_mnist_z20_b1000": "MNIST 784-500-20, minibatches of 1000",
    "train_frey_z2_b100": "Frey faces 560-200-2, minibatches of 100",
    "train_frey_z20_b100": "Frey faces 560-200-20, minibatches of 100",
}
DRAWN = (IN_FULL, "train_frey_z2_b100")
KIND_CONTENDERS = {
    "aevb": "aevb",
    "aevb_plain": "aevb, with XLA's own gradient of convolutions",
    "flax": "Flax, a jitted step in a loop of Python",
    "torch": "PyTorch",
    "torch_compile": "PyTorch, `torch.compile`",
    "torch_compile_step": "PyTorch, `torch.compile`, optimizer too",
    "torch_channels_last": "PyTorch, channels last",
    "torch_channels_last_compile": "PyTorch, channels last, `torch.compile`",
}
WAYS = {
    "sweep": "one `run.py --sweep`",
    "one_by_one": "a `run.py` for each member",
    "torch": "PyTorch, one process, training only",
    "devices": "`devices`: one member per core at a time",
    "sequence": "`sequence`: one member at a time, on all cores",
    "stack": "`stack`: one program",
}
MIXTURES = {
    "aevb_float32": "`aevb.classical`, float32",
    "aevb_float64": "`aevb.classical`, float64",
    "sklearn_one_thread": "scikit-learn, one thread",
    "sklearn": "scikit-learn, default number of threads",
}
RUNS = {  # of fixed_cost.py
    "frey": "Frey faces 560-200-2, 100,000 examples",
    "frey_sweep": "four runs of 100,000 Frey faces in a sweep",
    "mnist": "MNIST 784-500-20, 20,000 examples",
    "conv": "MNIST, convolutions (32, 64), 20,000 examples",
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
COSTS = {  # header and unit
    "step_seconds": ("step (ms)", 1e3),
    "shuffle_seconds": ("shuffle (ms)", 1e3),
    "evaluation_seconds": ("evaluation (ms)", 1e3),
    "importance_seconds": ("log p(x) (ms)", 1e3),
    "step_temp_bytes": ("memory of a step (MB)", 1e-6),
    "importance_temp_bytes": ("memory of log p(x) (MB)", 1e-6),
    "peak_mib": ("peak memory (MiB)", 1.0),
}


def _median(figure: Mapping[str, float], form: str = ",.0f") -> str:
    return format(figure["median"], form)


def speed_table() -> str:
    """Returns medians over rounds of the paired benchmark, and its ratios."""
    report = benchmark(IN_FULL)

    def row(title: str, speed: Mapping[str, Any], **others: str) -> dict[str, str]:
        return {
            "": title,
            "examples/s": _median(speed["examples_per_second"]),
            "speedup of aevb": others.get("ratio", ""),
            "fraction of the limit": others.get("fraction", "1"),
            "CPU/wall time": f"{speed['cpu_per_wall']:.2f}",
            "peak memory (MiB)": others.get("memory", ""),
            "test bound (nats)": others.get("bound", ""),
        }

    rows = [
        row(
            title,
            found,
            ratio="" if name == "aevb" else _median(found["ratio"], ".2f"),
            fraction=_median(found["of_limit"], ".2f"),
            memory=f"{found['peak_mib']:.0f}",
            bound=f"{found['test_bound']:.1f}",
        )
        for name, (title, _) in CONTENDERS.items()
        for found in [report["contenders"][name]]
    ]
    return table([*rows, row("the matrix products alone", report["limit"])])


def bound_noise_table() -> str:
    """Returns the spread of the bound over contenders, and over seeds of aevb."""
    report = benchmark(IN_FULL)
    ours = report["bound_noise"]["bounds"]
    theirs = [result["test_bound"] for result in report["contenders"].values()]
    return table(
        {
            f"test bound after {report['epochs_trained']} epochs (nats)": title,
            "mean": f"{statistics.fmean(bounds):.1f}",
            "standard deviation": f"{statistics.stdev(bounds):.1f}",
        }
        for title, bounds in (
            (f"aevb, {len(ours)} seeds", ours),
            (f"all {len(theirs)} contenders", theirs),
        )
    )


def shapes_table() -> str:
    """Returns aevb's speed at every shape, and its ratio to the speed of some peers."""
    return table(
        {
            "": title,
            "aevb (examples/s)": _median(found["aevb"]["examples_per_second"]),
            "fraction of the limit": _median(found["aevb"]["of_limit"], ".2f"),
            **{
                f"speedup over {CONTENDERS[name][1]}": _median(found[name]["ratio"], ".2f")
                for name in ("flax", "torch_compile", "torch_preloaded")
            },
        }
        for file, title in SHAPES.items()
        for found in [benchmark(file)["contenders"]]
    )


def measured_kinds() -> Mapping[str, Any]:
    """Returns the kinds of kinds_speed.py with their figures; none before its first run.

    Convolutions that train were measured later than the others.
    """
    files = (BENCHMARKS / f"{name}.json" for name in ("kinds", "kinds_convolutions"))
    found = [read(file)["kinds"] for file in files if file.exists()]
    return {name: kind for kinds in found for name, kind in kinds.items()}


def kinds_table(kinds: Mapping[str, Any]) -> str:
    """Returns aevb's speed for each kind, its ratios, and the bounds of all contenders."""

    def row(kind: Mapping[str, Any]) -> dict[str, str]:
        contenders = kind["contenders"]
        ours, flax, torch = contenders["aevb"], contenders.get("flax"), kind.get("fastest_torch")
        bounds = [found["test_bound"] for found in contenders.values()]
        deviation = kind["bound_noise"]["standard_deviation"]
        return {
            "": kind["title"],
            "aevb (examples/s)": _rate(ours["examples_per_second"]["median"]),
            "speedup over Flax": _median(flax["ratio"], ".2f") if flax else "",
            "over the fastest PyTorch": _median(torch["ratio"], ".2f") if torch else "",
            "which is": KIND_CONTENDERS[torch["name"]] if torch else "",
            "fraction of the limit": _median(ours["of_limit"], ".2f") if ours["of_limit"] else "",
            "CPU/wall time": f"{ours['cpu_per_wall']:.2f}",
            "bounds (nats)": f"{min(bounds):.1f} to {max(bounds):.1f}",
            "deviation over seeds": "" if deviation is None else f"{deviation:.1f}",
        }

    return table(row(kind) for kind in kinds.values())


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.1f}"


def convolutions_table(kinds: Mapping[str, Any]) -> str:
    """Returns the speed of every contender that trains the convolutional model."""
    contenders = kinds["conv"]["contenders"] if "conv" in kinds else {}
    return table(
        {
            "": title,
            "examples/s": _median(contenders[name]["examples_per_second"]),
            "speedup of aevb": "" if name == "aevb" else _median(contenders[name]["ratio"], ".2f"),
            "CPU/wall time": f"{contenders[name]['cpu_per_wall']:.2f}",
            "test bound (nats)": f"{contenders[name]['test_bound']:.1f}",
        }
        for name, title in KIND_CONTENDERS.items()
        if name in contenders
    )


def sweep_table(file: str) -> str:
    """Returns the time and memory of a whole sweep, and the bounds of its models."""
    report = benchmark(file)
    return table(
        {
            f"{report['num_members']} members, {report['num_examples']:,} examples each": WAYS[way],
            "time (s)": _median(result["seconds"]),
            "peak memory (MiB)": f"{result['peak_mib']:.0f}",
            **{f"bound, Z = {Z}": f"{bound:.1f}" for Z, bound in result["test_bound"].items()},
        }
        for way, result in report["ways"].items()
    )


def members_table() -> str:
    """Returns examples/s of S runs in one program, on each kind of device that was measured."""
    cpu = benchmark("members_speed")
    rates = {f"CPU: {cpu['machine']['processor']}": cpu["rows"]}
    for kind in ("gpu", "tpu"):
        path = BENCHMARKS / kind / "members_speed.json"
        if path.exists():
            rates[f"{kind.upper()}: {read(path)['device']}"] = read(path)["rows"]
        elif kind == "gpu":
            rates["GPU: not measured yet"] = []
    sizes = sorted({row["members"] for rows in rates.values() for row in rows})
    return table(
        {"speed of all members together (examples/s)": title}
        | {f"S = {size}": "" for size in sizes}
        | {f"S = {row['members']}": f"{row['examples_per_second']:,.0f}" for row in rows}
        for title, rows in rates.items()
    )


def start_table() -> str:
    """Returns the median seconds from the command to the first finished epoch."""
    return table(
        {
            "experiment": f"`{name}`",
            "empty cache (s)": _median(starts["cold"], ".1f"),
            "filled cache (s)": _median(starts["warm"], ".1f"),
        }
        for name, starts in benchmark("first_epoch")["seconds"].items()
    )


def fixed_cost_table() -> str:
    """Returns what short runs cost besides their training, at an earlier commit and now."""
    names = ("fixed_cost", "fixed_cost_sweep")  # measured on different machines
    found = {work: cost for name in names for work, cost in benchmark(name)["costs"].items()}
    costs = {work: found[work] for work in RUNS if work in found}

    def both(work: str, start: str, name: str, digits: str) -> str:
        return " → ".join(
            _median(costs[work][clone][start][name], digits) for clone in ("earlier", "now")
        )

    return table(
        {
            "run": RUNS[work],
            "training (s)": _median(costs[work]["now"]["warm"]["training_seconds"], ".1f"),
            "the rest, filled cache (s)": both(work, "warm", "fixed_seconds", ".1f"),
            "ratio": _median(costs[work]["now"]["warm"]["fixed_ratio"], ".2f"),
            "the rest, empty cache (s)": both(work, "cold", "fixed_seconds", ".1f"),
            "compilation, empty cache (s)": both(work, "cold", "compilation_seconds", ".1f"),
            "programs": both(work, "cold", "num_programs", ".0f"),
        }
        for work in costs
    )


def mixture_table() -> str:
    """Returns the table that compares the Gaussian mixture with scikit-learn's."""
    return table(
        {
            "": title,
            "time (s)": _median(found["seconds"], ".1f"),
            "relative to the first row (range)": spread(found["ratio"]),
            "CPU/wall time": f"{found['cpu_per_wall']:.2f}",
            "mean log-density (nats)": _median(found["score"], ".3f"),
        }
        for name, title in MIXTURES.items()
        for found in [benchmark("mixture_speed")["contenders"][name]]
    )


def sampling_table() -> str:
    """Returns the table that compares variational Bayes with chains on the same posteriors."""

    def milliseconds(seconds: float | None) -> str:
        return "not seen" if seconds is None else f"{1e3 * seconds:.3g}"

    def error(fit: Mapping[str, Any], limit: float) -> str:
        """Formats the error of the mean, or a limit of it if the reference is too inaccurate."""
        known = fit["sampler_is_nearer_after_seconds"] is not None
        return f"{fit['mean_off_in_std']:.3f}" if known else f"below {limit:.3f}"

    return table(
        {
            "": f"{name}, {fit}",
            "fit (ms)": milliseconds(found["seconds"]["median"]),
            "error of the mean (in posterior std)": error(found, 2 * problem["reference_error"]),
            "std (relative to the posterior's)": "{least:.2f} to {most:.2f}".format(
                **found["std_ratio"]
            ),
            "sampler": problem["sampler"],
            "effective samples/s": f"{problem['effective_samples_per_second']:,.0f}",
            "R-hat": f"{problem['worst_r_hat']:.3f}",
            "sampler is more accurate after (ms)": milliseconds(
                found["sampler_is_nearer_after_seconds"]
            ),
        }
        for name, problem in benchmark("sampling_speed")["problems"].items()
        for fit, found in problem["fits"].items()
    )


def explorer_table() -> str:
    """Returns the milliseconds that a drag takes, median and 95 % quantile."""

    def cell(times: Mapping[str, float]) -> str:
        return f"{times['median']:.1f} ({times['p95']:.1f})"

    return table(
        {
            "": title,
            "handler (ms)": cell(found["handler_ms"]),
            "event to end of frame (ms)": cell(found["painted_ms"]),
            "page (MB)": f"{1e-6 * found['page_bytes']:.1f}",
        }
        for title, found in benchmark("explorer_speed")["pages"].items()
    )


def cost_table() -> str:
    """Returns each figure at the first and last size of an axis, and its slope at the end."""

    def cell(name: str, result: Mapping[str, Any]) -> str:
        unit, growth = COSTS[name][1], result["growth"][name]
        first, last = (unit * result["points"][index][name] for index in (0, -1))
        slope = f"{growth['slope'] + 0.0:.2f} ({growth['expected']:g})"
        return f"{first:.3g} → {last:.3g}; {slope}{' !' * growth['surprise']}"

    return table(
        {"": f"{AXES[axis]}: {result['sizes'][0]:,} → {result['sizes'][-1]:,}"}
        | {header: cell(name, result) for name, (header, _) in COSTS.items()}
        for axis, result in benchmark("cost")["axes"].items()
    )


def speeds() -> Figure:
    """Draws the examples/s of each contender in every round, with the limit."""

    def rates(result: Mapping[str, Any]) -> list[float]:
        return [each["examples"] / each["seconds"] for each in result["rounds"]]

    panels = {}
    for file in DRAWN:
        report = benchmark(file)
        contenders = report["contenders"]
        panels[SHAPES[file]] = plots.Speeds(
            {
                short: rates(contenders[name])
                for name, (_, short) in CONTENDERS.items()
                if name in contenders
            },
            rates(report["limit"]),
        )
    return plots.speeds(panels)


TABLES: Mapping[str, Callable[[], str]] = {
    "speed": speed_table,
    "bound noise": bound_noise_table,
    "shapes": shapes_table,
    "kinds": lambda: kinds_table(measured_kinds()),
    "convolutions": lambda: convolutions_table(measured_kinds()),
    "sweep": lambda: sweep_table("sweep_speed"),
    "mapping": lambda: sweep_table("mapping_speed"),
    "members": members_table,
    "start": start_table,
    "fixed cost": fixed_cost_table,
    "mixture": mixture_table,
    "sampling": sampling_table,
    "explorer": explorer_table,
    "cost": cost_table,
}
FIGURES = {"speed": speeds}
