"""Schedules: how a setting changes during training, as a pure function of the step.

A schedule is a factor of the setting, such as of the step size. It depends on the number of steps
taken and on nothing else, so that a run resumes with the same value.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

Schedule = Callable[[ArrayLike], Array]  # steps taken [] -> factor []


class Length(NamedTuple):
    """The length of a run, from which a schedule derives its steps."""

    num_examples: int  # examples that the run trains on in total
    batch_size: int
    num_data: int  # N, examples of one pass over the data

    def steps(self, examples: float) -> int:
        """Returns the steps of so many examples, at least 1."""
        return max(1, round(examples / self.batch_size))


Factory = Callable[..., Schedule]  # (length, *, options) -> the schedule


def constant(length: Length) -> Schedule:
    """Returns the schedule whose factor is always 1."""
    del length
    return lambda step: jnp.ones(())


def cosine(
    length: Length, *, warmup_examples: int = 0, decay_examples: int = 0, final: float = 0.0
) -> Schedule:
    """Returns a linear rise from 0 to 1, then half a cosine down to `final`.

    Loshchilov & Hutter (2017), without restarts.

    Args:
        length: of the run.
        warmup_examples: training examples of the rise; 0 for none.
        decay_examples: training examples after which the factor is `final`, with those of the rise;
            0 for all of the run.
        final: the last factor.

    Raises:
        ValueError: a number is out of range.
    """
    end = decay_examples or length.num_examples
    _require_between(0, end - 1, warmup_examples=warmup_examples)
    _require_between(0, 1, final=final)
    warmup = length.steps(warmup_examples) if warmup_examples else 0
    steps = max(length.steps(end), warmup + 1)
    return _promoting(
        optax.warmup_cosine_decay_schedule(float(not warmup), 1.0, warmup, steps, final)
    )


def linear(length: Length, *, warmup_examples: int = 0) -> Schedule:
    """Returns a linear rise from 0 to 1, which then stays.

    Args:
        length: of the run.
        warmup_examples: training examples of the rise; 0 for half of the run.

    Raises:
        ValueError: the number is below 0.
    """
    _require_between(0, float("inf"), warmup_examples=warmup_examples)
    steps = length.steps(warmup_examples or length.num_examples / 2)
    return lambda step: jnp.minimum(jnp.asarray(step, jnp.float32) / steps, 1.0)


def cyclic(length: Length, *, period_examples: int = 0, rising: float = 0.5) -> Schedule:
    """Returns linear rises from 0 to 1 that repeat; Fu et al. (2019).

    Args:
        length: of the run.
        period_examples: training examples of one repetition; 0 for a quarter of the run.
        rising: the fraction of it in which the factor rises; in the rest it is 1.

    Raises:
        ValueError: a number is out of range.
    """
    _require_between(0, float("inf"), period_examples=period_examples)
    if not 0 < rising <= 1:
        raise ValueError(f"rising is {rising}; it must be above 0 and at most 1")
    period = length.steps(period_examples or length.num_examples / 4)

    def factor(step: ArrayLike) -> Array:
        position = jnp.mod(jnp.asarray(step, jnp.int32), period).astype(jnp.float32)
        return jnp.minimum(position / (rising * period), 1.0)

    return factor


def exponential(length: Length, *, rate: float = 0.1, decay_examples: int = 0) -> Schedule:
    """Returns the factor rate^(examples / decay_examples).

    Args:
        length: of the run.
        rate: the factor after `decay_examples`.
        decay_examples: 0 for all of the run.

    Raises:
        ValueError: a number is out of range.
    """
    _require_positive(rate=rate)
    _require_between(0, float("inf"), decay_examples=decay_examples)
    steps = length.steps(decay_examples or length.num_examples)
    return _promoting(optax.exponential_decay(1.0, steps, rate))


def piecewise(
    length: Length, *, boundaries: tuple[int, ...] = (), factors: tuple[float, ...] = ()
) -> Schedule:
    """Returns the factor 1 before the first boundary, and factors[i] from boundaries[i] on.

    Args:
        length: of the run.
        boundaries: numbers of training examples, rising.
        factors: one for each boundary.

    Raises:
        ValueError: the two do not fit together.
    """
    if len(boundaries) != len(factors) or not boundaries:
        raise ValueError(
            f"boundaries has {len(boundaries)} numbers and factors {len(factors)}; each boundary "
            "needs a factor, and at least one is needed"
        )
    steps = [length.steps(boundary) for boundary in boundaries]
    if min(boundaries) <= 0 or steps != sorted(set(steps)):
        raise ValueError(
            f"boundaries is {boundaries}; it must rise from above 0, by at least one minibatch"
        )
    for factor in factors:
        _require_between(0, float("inf"), factors=factor)
    starts, values = jnp.asarray([0, *steps]), jnp.asarray([1.0, *factors])
    return lambda step: values[jnp.searchsorted(starts, step, side="right") - 1]


def burda(length: Length, *, num_stages: int = 8) -> Schedule:
    """Returns the schedule of Burda et al. (2016), section 5.

    Its stages i = 0, ..., num_stages - 1 last 3^i passes over the data, with the factor 10^(-i/7);
    8 stages are 3,280 passes. The last factor stays.

    Raises:
        ValueError: num_stages is out of range.
    """
    _require_between(1, 16, num_stages=num_stages)
    if num_stages == 1:
        return constant(length)
    ends = [(3 ** (stage + 1) - 1) // 2 * length.num_data for stage in range(num_stages - 1)]
    factors = tuple(10 ** (-stage / 7) for stage in range(1, num_stages))
    return piecewise(length, boundaries=tuple(ends), factors=factors)


SCHEDULES: dict[str, Factory] = {
    "constant": constant,
    "linear": linear,
    "cyclic": cyclic,
    "cosine": cosine,
    "exponential": exponential,
    "piecewise": piecewise,
    "burda": burda,
}
"""The schedules by name, for `optimizer.schedule` and `algorithm.kl_schedule` in a config."""


def of_optax(name: str, **options: object) -> Schedule:
    """Returns the schedule of optax with this name, whose steps are those of training.

    Raises:
        ValueError: optax has no such schedule, or it refuses the options.
    """
    make = getattr(optax.schedules, name, None)
    if not inspect.isfunction(make) or not name.endswith("_schedule"):
        raise ValueError("optax has no schedule of this name")
    try:
        schedule = _promoting(make(**options))
        jax.eval_shape(schedule, jnp.int32(0))  # some refuse options only when they are called
    except (TypeError, ValueError, ArithmeticError, AssertionError) as error:
        known = ", ".join(inspect.signature(make).parameters)
        raise ValueError(f"{str(error).splitlines()[0]}; its options are {known}") from error
    return schedule


def _promoting(schedule: optax.Schedule) -> Schedule:
    """Returns a schedule of optax, which mixes whole numbers and floats, under strict promotion."""

    def factor(step: ArrayLike) -> Array:
        with jax.numpy_dtype_promotion("standard"):
            return jnp.asarray(schedule(step))

    return factor


def _require_between(low: float, high: float, **number: float) -> None:
    ((name, value),) = number.items()
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; it must be from {low} to {high}")


def _require_positive(**number: float) -> None:
    ((name, value),) = number.items()
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value}; it must be a finite number above 0")
