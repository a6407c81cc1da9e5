"""Checks of a run's log: what its bounds, measures and norms say of its training."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aevb.doctor.baselines import Baseline
from aevb.doctor.hints import Hint

# Fewer than this number of evaluations show no trend.
LEAST_RECORDS = 5
# nats; the estimate of I(x; z) is this noisy where the truth is 0.
LEAST_INFORMATION = 0.25
# The logs of variances are relative to the variance of the data. A standard deviation of a
# thousandth of the data's scale: no model of real data is so exact.
LOWEST_LOG_VAR = -14.0
HIGHEST_LOG_VAR = 10.0
# A log variance below the first number that has still fallen by the second in the last half
LOW_LOG_VAR, LARGEST_LOG_FALL = -8.0, 0.5
# of the rise of the validation bound until its best, lost again at the end
LARGEST_LOSS = 0.1
# of the whole rise of the training bound, in one fall between two evaluations
LARGEST_FALL = 0.2
# A minibatch of so few datapoints, whose bound falls, is a cause of its own.
TINY_MINIBATCH = 8
# of the whole rise of the training bound, in the last third of the examples
LARGEST_LAST_RISE = 0.15
# times the median of the first half
LARGEST_GROWTH = 100.0
# of what a linear model adds to one without latents
LARGEST_SHORTFALL = 0.1
# nats for each active latent
LARGEST_MARGINAL_KL = 0.7
LARGEST_AGGREGATE_KL = 3.0


class Setting(NamedTuple):
    """The settings of a run that its log is read by."""

    num_latents: int  # Z
    batch_size: int  # M
    log_spread: float = 0.0  # log of the mean variance of the columns of x, as the model gets it


def hints_of_log(records: Sequence[Mapping[str, Any]], setting: Setting) -> list[Hint]:
    """Returns the hints of all checks of a run's log, none for a sound run.

    The measures of the training data and the validation bound are used, and nothing of the test
    data, so that no decision about a run can come from these.

    Args:
        records: the log, one record for each evaluation.
    """
    if len(records) < LEAST_RECORDS:
        return []
    found = (
        _collapse(records, setting),
        _variance(records, setting),
        _overfitting(records),
        _large_step(records, setting),
        _small_step(records),
        _gradient(records),
        _aggregate(records),
    )
    return [hint for hint in found if hint is not None]


def hints_of_baselines(bounds: Mapping[str, float], rivals: Sequence[Baseline]) -> list[Hint]:
    """Returns a hint for a model whose bound is well below that of a simple model.

    Data may be as simple as a model with linear latents, whose log-likelihood is then the best. A
    sound bound is at most LARGEST_SHORTFALL below it, as a fraction of what linear latents add.

    Args:
        bounds: split -> the bound, in nats per datapoint; of train, and valid if there is one.
        rivals: from `baselines.baselines`.
    """
    split = "valid" if "valid" in bounds else "train"
    scores = {rival.name: getattr(rival, split).mean for rival in rivals}
    if not scores:
        return []
    name = max(scores, key=lambda each: scores[each])
    allowed = max(LARGEST_SHORTFALL * (scores[name] - min(scores.values())), 1.0)
    if bounds[split] >= scores[name] - allowed:
        return []
    return [
        Hint(
            "below_baseline",
            f"the model is worse than {name}",
            f"the {split} bound is {bounds[split]:.2f} nats, and that of {name} {scores[name]:.2f}",
            "train longer (config.train.num_examples) or with another config.optimizer.step_size; "
            "if the latents are not used, see posterior_collapse",
        )
    ]


def _series(records: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the examples and the values of a quantity, where the log has it."""
    having = [record for record in records if name in record]
    return (
        np.array([record["examples"] for record in having], np.float64),
        np.array([record[name] for record in having], np.float64),
    )


def _falls(bound: np.ndarray) -> np.ndarray:
    """Returns by how much a bound is below its highest value until then."""
    return np.maximum.accumulate(bound) - bound


def _objective_falls(records: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether the trained objective falls, or is not in the log.

    With a small weight of the KL the bound, whose weight is 1, may fall in sound training.
    """
    _, objective = _series(records, "recent_objective")
    if not len(objective):
        return True
    rise = max(float(np.max(objective) - objective[0]), 1.0)
    return float(np.max(_falls(objective))) > LARGEST_FALL * rise


def _collapse(records: Sequence[Mapping[str, Any]], setting: Setting) -> Hint | None:
    examples, information = _series(records, "train_mutual_information")
    if not len(examples) or information[-1] >= LEAST_INFORMATION:
        return None
    used = np.flatnonzero(information >= LEAST_INFORMATION)
    since = examples[used[-1] + 1] if len(used) else 0
    when = f"since {since:,.0f} examples" if since else "from the start"
    active, rate = records[-1]["train_active_units"], records[-1]["train_rate"]
    return Hint(
        "posterior_collapse",
        "q(z|x) is almost the same for every x: the latents are not used",
        f"{active:.0f} of {setting.num_latents} latents are active, I(x; z) is "
        f"{max(information[-1], 0.0):.2f} nats (below {LEAST_INFORMATION}) and the rate "
        f"{rate:.2f} nats, {when}",
        "if the bound is beta_elbo, lower its beta; else take a tenth of "
        "config.optimizer.step_size, or let the KL's weight rise slowly "
        "(config.algorithm.kl_schedule=linear)",
    )


def _variance(records: Sequence[Mapping[str, Any]], setting: Setting) -> Hint | None:
    examples, lowest = _series(records, "train_likelihood_log_var_min")
    if not len(examples):
        return None
    lowest -= setting.log_spread
    high = records[-1]["train_likelihood_log_var_max"] - setting.log_spread
    fall = float(np.interp(examples[-1] / 2, examples, lowest)) - lowest[-1]
    if lowest[-1] < LOWEST_LOG_VAR:
        finding, evidence = "vanishes", f"{lowest[-1]:.1f} at the end (below {LOWEST_LOG_VAR:g})"
    elif lowest[-1] < LOW_LOG_VAR and fall > LARGEST_LOG_FALL:
        finding = "falls without end"
        evidence = (
            f"{lowest[-1]:.1f} at the end, and has fallen by {fall:.1f} in the last half of the "
            f"examples (more than {LARGEST_LOG_FALL:g})"
        )
    elif high > HIGHEST_LOG_VAR:
        finding, evidence = "grows", f"{high:.1f} at the end (above {HIGHEST_LOG_VAR:g})"
    else:
        return None
    return Hint(
        "variance_runs_away",
        f"a variance of p(x|z) {finding}",
        f"its log, relative to the variance of the data, is {evidence}",
        "bound it (config.model.log_var_limit=6), use one variance for all z "
        "(config.model.likelihood=gaussian_shared), or leave out columns that are constant",
    )


def _overfitting(records: Sequence[Mapping[str, Any]]) -> Hint | None:
    examples, valid = _series(records, "valid_bound")
    _, train = _series(records, "train_bound")
    if len(valid) < LEAST_RECORDS:
        return None
    best = int(np.argmax(valid))
    loss, rise = valid[best] - valid[-1], valid[best] - valid[0]
    if loss <= LARGEST_LOSS * rise or loss < 1.0 or train[-1] <= train[best]:
        return None
    return Hint(
        "overfitting",
        "the validation bound falls while the training bound rises",
        f"the validation bound was {valid[best]:.2f} nats after {examples[best]:,.0f} examples and "
        f"is {valid[-1]:.2f} now, while the training bound rose from {train[best]:.2f} to "
        f"{train[-1]:.2f}",
        "use the best checkpoint (--which=best), stop early (config.train.patience=10), take a "
        "smaller config.model.hidden, or more data",
    )


def _large_step(records: Sequence[Mapping[str, Any]], setting: Setting) -> Hint | None:
    examples, train = _series(records, "train_bound")
    skipped = records[-1].get("skipped", 0)
    falls = _falls(train)
    worst, rise = int(np.argmax(falls)), float(np.max(train) - train[0])
    if skipped:
        evidence = f"{skipped:,} steps with a non-finite result were skipped"
    elif falls[worst] > LARGEST_FALL * max(rise, 1.0) and _objective_falls(records):
        evidence = (
            f"the training bound fell by {falls[worst]:.1f} nats until {examples[worst]:,.0f} "
            f"examples (more than {LARGEST_FALL:.0%} of its whole rise of {rise:.1f})"
        )
    else:
        return None
    if setting.batch_size <= TINY_MINIBATCH:
        return Hint(
            "tiny_minibatch",
            "the gradient of so few datapoints is mostly noise for such steps",
            f"minibatches of {setting.batch_size} (at most {TINY_MINIBATCH}); {evidence}",
            "take a larger config.train.batch_size, or a smaller config.optimizer.step_size",
        )
    return Hint(
        "step_too_large",
        "the steps of the optimizer are too large",
        evidence,
        "take a third of config.optimizer.step_size, clip the gradient "
        "(config.optimizer.clip=global_norm), or let the step size fall "
        "(config.optimizer.schedule=cosine)",
    )


def _small_step(records: Sequence[Mapping[str, Any]]) -> Hint | None:
    examples, train = _series(records, "train_bound")
    before = float(np.interp(examples[-1] * 2 / 3, examples, train))
    rise, last = train[-1] - train[0], train[-1] - before
    if last <= LARGEST_LAST_RISE * rise or last < 1.0:
        return None
    return Hint(
        "step_too_small",
        "training ended while the bound was still rising",
        f"{last:.1f} nats of the training bound's rise of {rise:.1f} came in the last third of the "
        f"examples (more than {LARGEST_LAST_RISE:.0%})",
        "train longer (config.train.num_examples), or take a larger config.optimizer.step_size",
    )


def _gradient(records: Sequence[Mapping[str, Any]]) -> Hint | None:
    examples, norms = _series(records, "gradient_norm")
    if len(norms) < LEAST_RECORDS:
        return None
    usual, worst = float(np.median(norms[: len(norms) // 2])), int(np.argmax(norms))
    _, train = _series(records, "train_bound")
    fall, rise = float(np.max(_falls(train))), float(np.max(train) - train[0])
    # Where a variance shrinks, the gradient grows in a sound run too.
    if norms[worst] <= LARGEST_GROWTH * max(usual, 1e-30) or fall <= LARGEST_FALL * rise:
        return None
    return Hint(
        "exploding_gradients",
        "the gradient grows by orders of magnitude, and the bound falls",
        f"its norm was {usual:.3g} at first and {norms[worst]:.3g} after {examples[worst]:,.0f} "
        f"examples (more than {LARGEST_GROWTH:g} times)",
        "clip it (config.optimizer.clip=global_norm), bound the variances "
        "(config.model.log_var_limit=6), or take a smaller config.optimizer.step_size",
    )


def _aggregate(records: Sequence[Mapping[str, Any]]) -> Hint | None:
    last = records[-1]
    active = max(last.get("train_active_units", 1.0), 1.0)
    limits = {
        "train_aggregate_marginal_kl": (LARGEST_MARGINAL_KL, "the marginals of q(z) are"),
        "train_aggregate_kl": (LARGEST_AGGREGATE_KL, "q(z) is"),
    }
    for name, (limit, words) in limits.items():
        if (kl := last.get(name, 0.0)) > limit * active:
            return Hint(
                "aggregate_far_from_prior",
                "the codes of the data are not distributed as the prior: samples of z ~ p(z) will "
                "look worse than reconstructions",
                f"{words} {kl:.1f} nats from the prior (more than {limit:g} for each of "
                f"{active:.0f} active latents)",
                "weigh the KL by 1 (config.algorithm.bound=sgvb_b, or a beta of 1), train longer, "
                "or learn the prior (config.model.prior=mixture or vamp)",
            )
    return None
