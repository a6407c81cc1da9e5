"""The tables of docs/speed.md on classical variational Bayes."""

from typing import Any

from .documents import BENCHMARKS, read, table

MIXTURES = {
    "aevb_float32": "`aevb.classical`, float32",
    "aevb_float64": "`aevb.classical`, float64",
    "sklearn_one_thread": "scikit-learn, one thread",
    "sklearn": "scikit-learn, as many threads as it takes",
}


def mixture() -> str:
    """Returns the table that compares the Gaussian mixture with scikit-learn's."""
    contenders = read(BENCHMARKS / "mixture_speed.json")["contenders"]
    rows = []
    for name, title in MIXTURES.items():
        it = contenders[name]
        rows.append(
            [
                title,
                f"{it['seconds']['median']:.1f}",
                f"{it['ratio']['median']:.1f} ({it['ratio']['min']:.1f} to "
                f"{it['ratio']['max']:.1f})",
                f"{it['cpu_per_wall']:.2f}",
                f"{it['score']['median']:.3f}",
            ]
        )
    header = ["", "seconds", "times that of the first", "cpu/wall", "mean log-density, nats"]
    return table(header, rows)


def sampling() -> str:
    """Returns the table that compares variational Bayes with chains on the same posteriors."""
    rows = []
    for name, problem in read(BENCHMARKS / "sampling_speed.json")["problems"].items():
        for fit, it in problem["fits"].items():
            least, most = it["std_ratio"]["least"], it["std_ratio"]["most"]
            rows.append(
                [
                    f"{name}, {fit}",
                    milliseconds(it["seconds"]["median"]),
                    off(it, problem),
                    f"{least:.2f} to {most:.2f}",
                    problem["sampler"],
                    f"{problem['effective_samples_per_second']:,.0f}",
                    f"{problem['worst_r_hat']:.3f}",
                    milliseconds(it["sampler_is_nearer_after_seconds"]),
                ]
            )
    header = ["", "ms", "mean off, in std", "std, of the posterior's", "chains", "ESS/s", "R-hat",
              "ms until they are nearer"]  # fmt: skip
    return table(header, rows)


def off(fit: dict[str, Any], problem: dict[str, Any]) -> str:
    """Formats the error of the mean, or its limit if the reference may be equally far off."""
    if fit["sampler_is_nearer_after_seconds"] is None:
        return f"below {2.0 * problem['reference_error']:.3f}"
    return f"{fit['mean_off_in_std']:.3f}"


def milliseconds(seconds: float | None) -> str:
    return "not seen" if seconds is None else f"{1e3 * seconds:.3g}"
