"""Full variational Bayes, with a posterior over theta too; the paper's appendix F, algorithm 2."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from aevb.algorithms import gradient_ascent
from aevb.algorithms.base import Algorithm, Batch
from aevb.algorithms.gradient_ascent import over_datapoints
from aevb.distributions import DiagNormal, StandardNormal
from aevb.losses import (
    BOUNDS,
    NOT_MEANS,
    Bound,
    Guide,
    Joint,
    evidence_lower_bound,
    minibatch_objective,
)
from aevb.networks import WeightPosterior
from aevb.types import Key, PyTree
from aevb.vae import VAE

FIRST_STD = 0.01  # standard deviation of q(theta) before training
POINT_ESTIMATES = ("encoder", "guide")  # phi, which has no distribution; all other parts are theta
NOISES = ("minibatch", "datapoint", "local")
PRIOR_SCALES = ("constant", "fan_in")


def make(
    vae: VAE,
    optimizer: optax.GradientTransformation,
    *,
    num_data: int,
    bound: Bound,
    num_samples: int = 1,
    weight_noise: str = "local",
    param_prior_std: float = 1.0,
    accumulation_steps: int = 1,
    prior_scale: str = "constant",
    first_std: float = FIRST_STD,
    kl_warm_up_steps: int = 0,
) -> Algorithm:
    """Returns gradient ascent, in phi and q(theta), of a bound on log p(X) of the whole dataset.

    q(theta) is a diagonal Gaussian, theta ~ N(mean, diag(exp(log_var))). The maximized objective is
    E[Sum_i bound(x_i; theta, phi)] - KL(q(theta) || p(theta)), with the KL in closed form;
    appendix F.1. `state.params` is {"mean": the VAE's parameters, "log_var": those of theta}.

    Metrics: objective, the bound divided by N; kl, KL(q(theta) || p(theta)) divided by N.

    Args:
        optimizer: without weight decay: the KL contains the prior on theta, and phi has no prior.
        num_data: N, which scales the minibatch against the KL of theta.
        bound: an entry of `aevb.losses.BOUNDS`.
        num_samples: L, samples per datapoint.
        weight_noise: one of `NOISES`, which `theta_of` explains.
        param_prior_std: the standard deviation of p(theta) = N(0, std^2 I).
        accumulation_steps: number of parts of a minibatch, processed one after the other.
        prior_scale: one of `PRIOR_SCALES`, which `prior_stds` explains.
        first_std: the standard deviation of q(theta) before training.
        kl_warm_up_steps: the number of first steps over which the weight of the KL increases
            linearly from 0 to 1. Until then the objective is not a bound.

    Raises:
        ValueError: the prior is flat, so that the posterior variance would grow without limit;
            prior_scale or weight_noise is unknown; first_std is not above 0; kl_warm_up_steps is
            below 0; or weight_noise is "local" and the bound, one of `aevb.losses.NOT_MEANS`,
            compares several samples of z, which would not share one theta.
    """
    _require_proper(param_prior_std)
    _require_noise_for(vae, bound, num_samples, weight_noise)
    _require_options(prior_scale, first_std, kl_warm_up_steps)

    def kl_theta(params: PyTree) -> Array:
        return kl_to_prior(params, prior_stds(params, param_prior_std, prior_scale)) / num_data

    def bound_at(theta: PyTree, key: Key, x: Array) -> Array:
        stats = vae.encode(theta, x)
        return bound(key, stats, vae.guide, vae.joint(theta, x), num_samples=num_samples)

    def objective(
        step: Array, params: PyTree, key: Key, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the mean bound at random theta minus the weighted KL / N [], and the metrics."""
        common_key, theta_key, z_key = jax.random.split(key, 3)

        def bound_of(theta_key: Key, z_key: Key, x: Array) -> Array:
            return bound_at(theta_of(common_key, theta_key, params, weight_noise), z_key, x)

        theta_keys, z_keys = (jax.random.split(key, len(batch.x)) for key in (theta_key, z_key))
        bounds = over_datapoints(
            bound_of, theta_keys, z_keys, batch.x, num_parts=accumulation_steps
        )
        kl = kl_theta(params)
        weight = 1.0
        if kl_warm_up_steps:
            weight = jnp.minimum(step.astype(kl.dtype) / kl_warm_up_steps, 1.0)
        value = minibatch_objective(bounds, num_data) / num_data - weight * kl
        return value, {"objective": value, "kl": kl}

    def of_datapoint(key: Key, params: PyTree, x: Array) -> Array:
        """Returns the bound at a random theta of this datapoint alone, minus KL / N []."""
        theta_key, z_key = jax.random.split(key)
        noise = "datapoint" if weight_noise == "minibatch" else weight_noise
        theta = theta_of(theta_key, theta_key, params, noise)
        return bound_at(theta, z_key, x) - kl_theta(params)

    ascent = gradient_ascent.algorithm_at(
        lambda step: partial(objective, step), partial(_first_params, vae, first_std), optimizer
    )
    return ascent._replace(vae_params=lambda params: params["mean"], objective=of_datapoint)


def _first_params(vae: VAE, first_std: float, key: Key) -> PyTree:
    """Returns a narrow q(theta) around the VAE's initial parameters."""
    mean = vae.init(key)
    theta = {part: tree for part, tree in mean.items() if part not in POINT_ESTIMATES}
    log_var = 2.0 * math.log(first_std)
    return {
        "mean": mean,
        "log_var": jax.tree.map(lambda leaf: jnp.full_like(leaf, log_var), theta),
    }


def draw(key: Key, params: PyTree) -> PyTree:
    """Returns the VAE's parameters at a draw of theta ~ q(theta).

    `params` is {"mean", "log_var"}, as in `make`.
    """
    leaves, structure = jax.tree.flatten(params["log_var"])
    keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))
    theta = {part: params["mean"][part] for part in params["log_var"]}
    drawn = jax.tree.map(
        lambda key, mean, log_var: DiagNormal(mean, log_var).sample(key),
        keys, theta, params["log_var"],
    )  # fmt: skip
    return params["mean"] | drawn


def with_theta_as_latents(vae: VAE, params: PyTree) -> VAE:
    """Returns the model p(x) = E_q[p(x; theta)], whose latents are theta ~ q(theta) and z.

    A latent is a vector (eps [P], z [Z]) with theta = mean + std * eps, so that p(eps) = N(0, I).
    Every datapoint has a theta of its own. The guide is N(0, I) for eps and q(z|x) at the mean of
    theta for z. The parameters of the returned model are `params`, {"mean", "log_var"} as in
    `make`.
    """
    leaves = jax.tree.leaves(params["log_var"])
    num_theta = sum(leaf.size for leaf in leaves)
    prior = StandardNormal(num_theta, jnp.result_type(*leaves))

    def theta_at(params: PyTree, latent: Array) -> PyTree:
        log_var, unravel = ravel_pytree(params["log_var"])
        mean, _ = ravel_pytree({part: params["mean"][part] for part in params["log_var"]})
        return params["mean"] | unravel(mean + jnp.exp(0.5 * log_var) * latent[:num_theta])

    def joint(params: PyTree, x: Array) -> Joint:
        def at(latent: Array) -> tuple[Joint, Array]:
            return vae.joint(theta_at(params, latent), x), latent[num_theta:]

        def log_prior(latent: Array) -> Array:
            at_theta, z = at(latent)
            return prior.log_prob(latent[:num_theta]) + at_theta.log_prior(z)

        def log_lik(latent: Array) -> Array:
            at_theta, z = at(latent)
            return at_theta.log_lik(z)

        return Joint(log_prior, log_lik)

    def sample_guide(key: Key, stats: PyTree) -> Array:
        theta_key, z_key = jax.random.split(key)
        return jnp.concatenate([prior.sample(theta_key), vae.guide.sample(z_key, stats)])

    def log_guide(stats: PyTree, latent: Array) -> Array:
        log_q = vae.guide.log_prob(stats, latent[num_theta:])
        return prior.log_prob(latent[:num_theta]) + log_q

    def sample(key: Key, params: PyTree) -> tuple[Array, Array]:
        theta_key, key = jax.random.split(key)
        eps = prior.sample(theta_key)
        z, x = vae.sample(key, theta_at(params, eps))
        return jnp.concatenate([eps, z]), x

    return vae._replace(
        encode=lambda params, x: vae.encode(params["mean"], x),
        guide=Guide(sample_guide, log_guide),
        joint=joint,
        mean=lambda params, latent: vae.mean(theta_at(params, latent), latent[num_theta:]),
        sample=sample,
        num_latents=num_theta + vae.num_latents,
        takes_weight_posteriors=False,
        log_var=None,
    )


def theta_of(common_key: Key, own_key: Key, params: PyTree, weight_noise: str) -> PyTree:
    """Returns the VAE's parameters for one datapoint, with theta's noise of kind `weight_noise`.

    "datapoint" draws theta separately for each datapoint, as algorithm 2 does. "minibatch" draws
    theta once for all of them, which is cheaper and noisier. "local" draws the effect of theta's
    noise on the units of each layer instead (Kingma, Salimans & Welling 2015). It is as cheap as
    "minibatch" and less noisy than the other two, because its gradient is the conditional mean,
    given the units, of the gradient of "datapoint". It needs a decoder that accepts
    `networks.WeightPosterior`.

    Args:
        common_key: the same for all datapoints of a minibatch.
        own_key: the datapoint's own.
        params: {"mean", "log_var"}, as in `make`.
    """
    match weight_noise:
        case "local":
            return _with_local_noise(own_key, params)
        case "minibatch":
            return draw(common_key, params)  # one key, so vmap draws once
        case _:
            return draw(own_key, params)


def prior_stds(params: PyTree, std: float, scale: str = "constant") -> PyTree:
    """Returns the standard deviation of p(theta) for each array of theta, as a tree of floats.

    "constant" is `std` for all parameters. "fan_in" is std / sqrt(fan-in) for weights, where the
    fan-in is the number of inputs of a unit, and `std` for biases and other vectors. The units then
    have a prior variance that does not depend on the width of the layer before them.
    """

    def of(leaf: Array) -> float:
        fan_in = math.prod(leaf.shape[:-1]) if scale == "fan_in" else 1  # 1 for a vector
        return std / math.sqrt(fan_in)

    return jax.tree.map(of, params["log_var"])


def kl_to_prior(params: PyTree, stds: PyTree | float = 1.0) -> Array:
    """Returns KL(q(theta) || N(0, diag(std^2))) [], in nats; appendix F.1.

    Args:
        params: {"mean", "log_var"}, as in `make`.
        stds: from `prior_stds`, or a number for all parameters.

    Raises:
        ValueError: the prior is flat.
    """
    kls = jax.tree.leaves(kl_per_array(params, stds))
    return sum(kls, jnp.zeros((), kls[0].dtype))


def kl_per_array(params: PyTree, stds: PyTree | float = 1.0) -> PyTree:
    """Returns the terms [] of `kl_to_prior`, one for each array of theta."""
    if isinstance(stds, float | int):
        stds = prior_stds(params, stds)

    def kl(mean: Array, log_var: Array, std: float) -> Array:  # in units of the prior's std
        _require_proper(std)
        return DiagNormal(mean / std, log_var - 2.0 * math.log(std)).kl_to_standard_normal()

    theta = {part: params["mean"][part] for part in params["log_var"]}
    return jax.tree.map(kl, theta, params["log_var"], stds)


def log_evidence_bound(
    key: Key, vae: VAE, params: PyTree, x: Array, *, num_samples: int, stds: PyTree | float
) -> tuple[Array, Array]:
    """Estimates the bound on log p(X) of all of x [N, D].

    Returns the estimate [] and its standard error [], in nats. Each of L draws of theta is scored
    on every datapoint, with one z each, by eq. (7) or, if the KL of z has no closed form, by
    eq. (6).

    Raises:
        ValueError: the prior is flat; or L is below 2, which gives no standard error.
    """
    if num_samples < 2:
        raise ValueError(f"num_samples is {num_samples}; it must be at least 2")

    def at_theta(key: Key) -> Array:
        theta_key, z_key = jax.random.split(key)
        theta = draw(theta_key, params)

        def bound_of(key: Key, x: Array) -> Array:
            stats = vae.encode(theta, x)
            return evidence_lower_bound(key, stats, vae.guide, vae.joint(theta, x))

        return jnp.sum(jax.vmap(bound_of)(jax.random.split(z_key, len(x)), x))

    totals = jax.lax.map(at_theta, jax.random.split(key, num_samples))
    error = jnp.std(totals, ddof=1) / jnp.sqrt(num_samples)
    return jnp.mean(totals) - kl_to_prior(params, stds), error


def _require_proper(std: float) -> None:
    """Checks that the prior N(0, std^2 I) on theta is a density.

    Raises:
        ValueError: the prior is flat.
    """
    if not 0.0 < std < math.inf:
        raise ValueError(f"param_prior_std is {std:g}; full_vb needs one above 0 and finite")


def _require_options(prior_scale: str, first_std: float, kl_warm_up_steps: int) -> None:
    """Checks the options of `make` that concern q(theta) and its prior.

    Raises:
        ValueError: one of them is not allowed.
    """
    if prior_scale not in PRIOR_SCALES:
        raise ValueError(f"prior_scale is {prior_scale!r}; it must be one of {PRIOR_SCALES}")
    if not 0.0 < first_std < math.inf:
        raise ValueError(f"first_std is {first_std:g}; it must be above 0 and finite")
    if kl_warm_up_steps < 0:
        raise ValueError(f"kl_warm_up_steps is {kl_warm_up_steps}; it must be at least 0")


def _require_noise_for(vae: VAE, bound: Bound, num_samples: int, weight_noise: str) -> None:
    """Checks that weight_noise is known, and suits the decoder and the bound.

    Raises:
        ValueError: it is unknown, or it is "local" and the decoder has no such noise or the bound
            compares several samples.
    """
    if weight_noise not in NOISES:
        raise ValueError(f"weight_noise is {weight_noise!r}; it must be one of {NOISES}")
    if weight_noise == "local" and not vae.takes_weight_posteriors:
        raise ValueError(
            "weight_noise is 'local', the noise of an mlp's units, and this decoder has none; use "
            "minibatch or datapoint"
        )
    if weight_noise == "local" and num_samples > 1 and _is_no_mean(bound):
        raise ValueError(
            f"with num_samples={num_samples} this bound compares samples of z under one theta, "
            'and weight_noise="local" draws none; use "datapoint" or "minibatch", or one of '
            f"{', '.join(name for name in BOUNDS if name not in NOT_MEANS)}"
        )


def _is_no_mean(bound: Bound) -> bool:
    plain = getattr(bound, "func", bound)  # unwraps a partial that sets options
    return any(plain is BOUNDS[name] for name in NOT_MEANS)


def _with_local_noise(key: Key, params: PyTree) -> PyTree:
    """Returns the VAE's parameters with a decoder that draws its units instead of its weights."""
    decoder_key, rest_key = jax.random.split(key)
    decoder = WeightPosterior(params["mean"]["decoder"], params["log_var"]["decoder"], decoder_key)
    rest = {part: tree for part, tree in params["log_var"].items() if part != "decoder"}
    others = draw(rest_key, {"mean": params["mean"], "log_var": rest})
    return others | {"decoder": decoder}
