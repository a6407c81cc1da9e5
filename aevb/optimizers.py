"""Optimizers by name, with the prior on the parameters as weight decay.

They are the paper's Adagrad and every optimizer of optax.
"""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from aevb.errors import UserError
from aevb.schedules import Schedule
from aevb.types import PyTree

Optimizer = optax.GradientTransformation
Mask = Callable[[PyTree], PyTree]  # parameters -> for each leaf, whether the decay covers it


def prior_decay(std: float, num_data: int) -> float:
    """Returns the weight decay 1 / (std^2 N) that acts as the prior N(0, std^2 I) on theta.

    The loss is minus a mean over the N datapoints, so the prior adds -log p(theta) / N to it, with
    the gradient theta / (std^2 N). An infinite std is a flat prior, without decay.
    """
    return 1.0 / std / std / num_data


def all_but_biases(params: PyTree) -> PyTree:
    """Returns the mask of a decay that does not cover biases (leaves of at most one dimension)."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def adagrad(
    learning_rate: float | Array,
    initial_accumulator_value: float = 0.0,
    eps: float = 0.0,
    weight_decay: float = 0.0,
    mask: Mask | None = None,
) -> Optimizer:
    """Returns the optimizer theta -= learning_rate * g / sqrt(sum of all g^2 so far + eps).

    Duchi et al. 2011. g is the gradient plus, for the leaves of the mask, weight_decay * theta.
    This decay comes from a prior, so it is scaled like the gradient, unlike that of AdamW. The
    optimizer is
    `optax.chain(optax.add_decayed_weights(weight_decay, mask), optax.adagrad(learning_rate))` with
    fewer passes over memory and the paper's defaults: no initial accumulator and no epsilon. A
    parameter whose g has always been zero does not change.
    """
    decay = optax.add_decayed_weights(weight_decay, mask) if weight_decay else optax.identity()

    def decayed(grads: PyTree, params: PyTree) -> PyTree:
        return decay.update(grads, decay.init(params), params)[0]

    def init(params: PyTree) -> optax.ScaleByRssState:
        return optax.ScaleByRssState(optax.tree.full_like(params, initial_accumulator_value))

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, optax.ScaleByRssState]:
        def accumulate(total: Array, g: Array) -> Array:
            return total + jnp.square(g)

        def descend(total: Array, g: Array) -> Array:
            return -learning_rate * (jnp.where(total > 0, jax.lax.rsqrt(total + eps), 0.0) * g)

        totals = jax.tree.map(accumulate, state.sum_of_squares, decayed(updates, params))
        # On a CPU each of the two maps is a loop over memory. The decay is added in both, because
        # adding it once would need a third loop.
        again = decayed(_not_shared_on_cpu(updates), params)
        return jax.tree.map(descend, totals, again), optax.ScaleByRssState(totals)

    return Optimizer(init, update)


def _not_shared_on_cpu(tree: PyTree) -> PyTree:
    """Returns the same numbers, behind a barrier on a CPU.

    The barrier keeps XLA from merging computations on the result with those on `tree`.
    """
    return jax.lax.platform_dependent(
        tree, cpu=jax.lax.optimization_barrier, default=lambda tree: tree
    )


CLIPPED = "clipped"  # the number of clipped steps in a log


class Clipping(NamedTuple):
    """The state of a `counted` clip."""

    inner: PyTree
    num_clipped: Array  # [] int32, the steps whose gradient was clipped so far


def counted(clip: Optimizer) -> Optimizer:
    """Wraps a clip so that it counts the steps whose gradient it changes."""

    def init(params: PyTree) -> Clipping:
        return Clipping(clip.init(params), jnp.int32(0))

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, Clipping]:
        clipped, inner = clip.update(updates, state.inner, params)
        changed = jax.tree.map(lambda new, old: jnp.any(new != old), clipped, updates)
        is_clipped = jnp.any(jnp.stack(jax.tree.leaves(changed)))
        return clipped, Clipping(inner, state.num_clipped + is_clipped.astype(jnp.int32))

    return Optimizer(init, update)


def num_clipped(opt_state: PyTree) -> int | None:
    """Returns the number of clipped steps in an optimizer's state; None if it does not clip."""

    def is_clipping(part: Any) -> bool:
        return isinstance(part, Clipping)

    found = [part for part in jax.tree.leaves(opt_state, is_leaf=is_clipping) if is_clipping(part)]
    return int(found[0].num_clipped) if found else None


CLIPS: Mapping[str, Callable[[float], Optimizer] | None] = MappingProxyType(
    {
        "none": None,
        "global_norm": optax.clip_by_global_norm,
        "adaptive": optax.adaptive_grad_clip,
    }
)
"""The ways to clip the gradient by name, for `optimizer.clip` in a config."""

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})

OUR_OWN = {
    "adagrad": adagrad,
}


def make(
    name: str,
    step_size: float | Array,
    options: Mapping[str, Any] = NO_OPTIONS,
    *,
    weight_decay: float = 0.0,
    mask: Mask | None = None,
    clip: Optimizer | None = None,
    schedule: Schedule | None = None,
) -> Optimizer:
    """Returns the optimizer of this name, from `OUR_OWN` or else from optax.

    Args:
        name: for example "adagrad", "adam", "sgd".
        step_size: the learning rate, a float or an array [].
        options: the optimizer's other arguments, for example {"b1": 0.9, "eps": 1e-4}.
        weight_decay: the multiple of the parameters that is added to their gradient before the
            optimizer receives it, such as `prior_decay`.
        mask: for example `all_but_biases`; None for a decay of all parameters.
        clip: is applied to the gradient with this decay, such as `optax.clip_by_global_norm(1.0)`.
        schedule: its factor multiplies the updates.

    Raises:
        UserError: optax has no such optimizer, or it does not accept these arguments.
    """
    maker = OUR_OWN.get(name) or getattr(optax, name, None)
    if not inspect.isfunction(maker) or "learning_rate" not in inspect.signature(maker).parameters:
        raise UserError(
            f"optimizer.name is {name!r}; optax has no optimizer of this name with a learning_rate "
            "(adagrad, adam, rmsprop and sgd are some that it has)"
        )
    decay: dict[str, Any] = {"weight_decay": weight_decay, "mask": mask}
    # Our own optimizers add the decay themselves, unless the sum is to be clipped.
    own = decay if name in OUR_OWN and clip is None else {}
    try:
        parts = [
            optax.add_decayed_weights(**decay) if weight_decay and not own else None,
            clip and counted(clip),
            maker(learning_rate=step_size, **options, **own),
            optax.scale_by_schedule(schedule) if schedule else None,
        ]
        given = [part for part in parts if part is not None]
        optimizer = optax.chain(*given) if len(given) > 1 else given[0]
        jax.eval_shape(  # some optimizers reject arguments only at the first step
            lambda weights: optimizer.update(weights, optimizer.init(weights), weights),
            jax.ShapeDtypeStruct((1,), jnp.float32),
        )
    except (TypeError, ValueError, ArithmeticError) as error:
        known = ", ".join(
            parameter
            for parameter in inspect.signature(maker).parameters
            if parameter not in ("learning_rate", *(decay if name in OUR_OWN else ()))
        )
        raise UserError(
            f"optimizer {name!r} with options {dict(options)} cannot be made: "
            f"{str(error).splitlines()[0]}; optimizer.options can be {known}"
        ) from error
    return optimizer
