"""The tables and figures of docs/paper.md about full variational Bayes (appendix F)."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from aevb.evaluation.intervals import Interval, mean_interval
from aevb.reports.figures import label_axes, titled_axes

from .documents import MISSING, table
from .findings import FULL_VB, Findings, Run, is_reliable, log_p, paired_over_images

MAX_CHANGE = 0.01  # by which the objective and KL(theta) of a converged run may change, relative
IN_USE = 0.1  # nats per weight of a hidden unit that is not pruned
OPTIONS = {"full_vb_options_mnist": "MNIST", "full_vb_options_frey": "Frey faces"}
SIZES = {"MNIST": (5, 784, 1), "Frey faces": (2, 560, 2)}  # latents, pixels, heads of the decoder


class Setting(NamedTuple):
    """The runs on one number of training datapoints, with a point estimate and a posterior."""

    data: str
    num_train: int
    point: list[Run]
    full: list[Run]

    @property
    def title(self) -> str:
        return f"{self.data}, N = {self.num_train:,}"


def settings(findings: Findings) -> Iterator[Setting]:
    """Yields the settings of the studies."""
    for study, (data, _) in FULL_VB.items():
        for num_train in findings.values(study):
            yield Setting(data, num_train, *findings.full_vb(study, num_train))


class Change(NamedTuple):
    """The changes in the last tenth of a run's examples."""

    nats: float  # of the objective, per datapoint
    objective: float  # relative
    kl: float  # of KL(theta), relative

    @property
    def is_small(self) -> bool:
        """Whether the run has converged by the criterion that docs/paper.md states."""
        return max(abs(self.objective), abs(self.kl)) <= MAX_CHANGE


def change(run: Run) -> Change:
    """Returns the changes from the tenth before the last to the last."""
    found = run["measured"]["convergence"]
    nats, kl = found["last_tenth"]["objective"], found["last_tenth"]["kl_theta"]
    return Change(nats, nats / abs(found["objective"][-1]), kl / found["kl_theta"][-1])


def convergence_table(findings: Findings) -> str:
    """Returns the objective and KL(theta) at the end, and their changes over the last tenth."""

    def row(title: str, runs: Sequence[Run]) -> dict[str, str]:
        changes = [change(run) for run in runs]
        return {
            "": title,
            "bound on log p(X) / N": _mean(runs, lambda run: run["measured"]["evidence"]["bound"]),
            "KL(θ) / N": _mean(runs, lambda run: run["measured"]["evidence"]["kl_theta"]),
            "change of the objective": mean_interval([each.nats for each in changes]).text(
                is_signed=True
            ),
            "largest change": f"{max(abs(each.objective) for each in changes):.2%}",
            "largest change of KL(θ)": f"{max(abs(each.kl) for each in changes):.2%}",
            "converged": f"{sum(each.is_small for each in changes)} of {len(runs)}",
            "change of at most 1 nat": f"{sum(abs(each.nats) <= 1.0 for each in changes)}",
            "step size": ", ".join(sorted({f"{run['step_size']:g}" for run in runs})),
        }

    missing = [name for name in FULL_VB if name not in findings.studies]
    note = f"\n\n{', '.join(missing)}: {MISSING}." if 0 < len(missing) < len(FULL_VB) else ""
    return table(row(one.title, one.full) for one in settings(findings)) + note


def predictions_table(findings: Findings) -> str:
    """Returns the test bound and log p(x) of the best and of the last state, for both methods."""

    def row(title: str, runs: Sequence[Run]) -> dict[str, str]:
        examples = [run["best_num_examples"] for run in runs]
        return {
            "": title,
            "best after (examples)": f"{min(examples):,} to {max(examples):,}",
            "bound, best": _mean(runs, lambda run: run["best_test_bound"]),
            "bound, last": _mean(runs, lambda run: run["test_bound"]),
            "log p(x), best": _mean(runs, lambda run: log_p(run, "best")),
            "log p(x), last": _mean(runs, lambda run: log_p(run, "mean")),
            "seeds": str(len(runs)),
        }

    return table(
        row(f"{one.title}, {method}", runs)
        for one in settings(findings)
        for method, runs in (("MAP", one.point), ("mean of q(θ)", one.full))
        if runs
    )


def leads(findings: Findings, state: str) -> dict[str, Interval]:
    """Returns the lead in test log p(x) of the mean of q(theta) over MAP, by setting.

    Both seeds and images are random.

    Args:
        state: "best" or "mean", which is the last state.
    """

    def at_the_images(run: Run) -> np.ndarray:
        return np.array(run["measured"][state]["estimators"]["importance"]["values"])

    return {
        f"{one.data} N = {one.num_train:,}": lead
        for one in settings(findings)
        if (lead := paired_over_images(one.full, one.point, at_the_images))
    }


def samples_sentence(findings: Findings) -> str:
    """Says of log p(x) by samples of theta whether it can be trusted, and how it rises."""
    found = []
    for one in settings(findings):
        for run in one.full:
            if "samples" not in run["measured"]:
                continue
            row = run["measured"]["samples"]["estimators"]["importance"]
            means = row["over_theta"]["means"]
            sizes = ", ".join(f"{mean:.1f} ({size})" for size, mean in means.items())
            by_samples = "reliable" if is_reliable(run, "samples") else "not reliable"
            at_the_mean = log_p(run, "mean")
            found.append(
                f"{one.title}: {by_samples}, {sizes}; at the mean of q(θ) {at_the_mean:.1f}"
            )
    return "\n".join(f"- {line}" for line in found) or MISSING


def options_table(findings: Findings) -> str:
    """Returns what the prior's scale, the first variance and the warm-up of the KL change."""
    prefix = "algorithm.options."
    return table(
        {
            "N = 100": data,
            "prior": {"constant": "N(0, 1)", "fan_in": "N(0, 1/fan-in)"}[
                run["setting"][prefix + "prior_scale"]
            ],
            "first std": f"{run['setting'][prefix + 'first_std']:g}",
            "warm-up (steps)": f"{run['setting'][prefix + 'kl_warm_up_steps']:,}",
            "bound on log p(X) / N": f"{run['measured']['evidence']['bound']:.1f}",
            "KL(θ) / N": f"{run['measured']['evidence']['kl_theta']:.1f}",
            "change in the last tenth": f"{change(run).nats:+.2f}",
            "test bound, best": f"{run['best_test_bound']:.1f}",
            "test bound, last": f"{run['test_bound']:.1f}",
            "hidden units with half of the KL": str(num_with_half(run)),
        }
        for study, data in OPTIONS.items()
        for run in findings.runs(study)
    )


def num_with_half(run: Run) -> int:
    """Returns the smallest number of hidden units that have half of the KL of all hidden units."""
    kl = np.cumsum(run["measured"]["kl_theta"]["hidden_units"])  # they are sorted
    return 1 + int(np.argmax(kl >= 0.5 * kl[-1]))


def num_in_use(run: Run, data: str) -> int:
    """Returns the number of hidden units of the decoder that are not pruned."""
    return int(np.sum(per_weight(run, data) > IN_USE))


def per_weight(run: Run, data: str) -> np.ndarray:
    """Returns KL(theta) of each hidden unit's weights over their number [H], decreasing; nats."""
    num_latents, num_pixels, num_heads = SIZES[data]
    kl = np.array(run["measured"]["kl_theta"]["hidden_units"])
    return kl / (num_latents + num_heads * num_pixels)


def pruned_sentence(findings: Findings) -> str:
    """Says how many hidden units are in use, by setting."""
    found = []
    for one in settings(findings):
        used = [num_in_use(run, one.data) for run in one.full]
        total = len(one.full[0]["measured"]["kl_theta"]["hidden_units"])
        found.append(f"{min(used)} to {max(used)} of {total} ({one.title})")
    return f"In use are {', '.join(found)}." if found else MISSING


def draw_convergence(findings: Findings) -> Figure:
    """Draws the objective and KL(theta) / N along training, a line per seed."""
    found = list(settings(findings))
    figure, grid = titled_axes([one.title for one in found], (4.4, 3.2), 2)
    for axes, one in zip(grid, found, strict=True):
        for number, run in enumerate(one.full):
            curve = run["measured"]["convergence"]
            for name, color, label in (
                ("objective", "C0", "objective"),
                ("kl_theta", "C1", "KL(q(θ) ‖ p(θ)) / N"),
            ):
                shown = label if number == 0 else None
                axes.semilogx(curve["examples"], curve[name], color=color, lw=0.9, label=shown)
            axes.axvline(curve["last_tenth"]["from"], color="gray", lw=0.8, ls=":")
        axes.set_yscale("symlog", linthresh=100.0)
        label_axes(axes, "training examples seen")
        axes.legend(loc="best", fontsize="small")
    figure.supylabel("nats per datapoint")
    return figure


def draw_pruning(findings: Findings) -> Figure:
    """Draws KL(theta) per weight of each hidden unit of the decoder, sorted, a line per seed."""
    found = list(settings(findings))
    figure, grid = titled_axes([one.title for one in found], (4.4, 3.2), 2, sharey=True)
    for axes, one in zip(grid, found, strict=True):
        for number, run in enumerate(one.full):
            kl = per_weight(run, one.data)
            label = "one seed a line" if number == 0 else None
            axes.semilogy(np.arange(1, len(kl) + 1), kl, color="C0", lw=0.9, label=label)
        axes.axhline(IN_USE, color="gray", lw=0.8, ls=":", label=f"{IN_USE:g} nats: in use above")
        label_axes(axes, "hidden unit of the decoder, sorted")
        axes.legend(loc="best", fontsize="small")
    figure.supylabel("KL(q(θ) ‖ p(θ)) per weight (nats)")
    return figure


def _mean(runs: Sequence[Run], measure: Callable[[Run], float]) -> str:
    return mean_interval([measure(run) for run in runs]).text()
