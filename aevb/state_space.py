"""State-space models of windows of T frames, as families of guides and priors of one vector z.

The vector z [T Z] holds the latents of the frames one after the other, so that all that handles a
vector of latents handles a sequence. A window is x [T D]. The networks of the encoder and of the
decoder, and the likelihood, are those of one frame.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.distributions import DiagNormal
from aevb.guides import GuideFamily, Heads, diag_normal
from aevb.hierarchies import HEADS, of_vector
from aevb.likelihoods import Likelihood
from aevb.networks import Network, init_of, recurrent
from aevb.priors import Posterior, PriorFamily
from aevb.sequences import Autoregressive, Markov, Steps, linear_chain, structured
from aevb.types import Key, PyTree

RETAINED = 0.9  # the part of z_{t-1} in the mean of z_t where all parameters are 0
LOG_NOISE = math.log(1.0 - RETAINED**2)  # its log variance there, for which N(0, I) is stationary
DIRECTIONS = {"smoothing": "backward", "filtering": "forward", "mean_field": "both"}
GUIDES = (*DIRECTIONS, "structured")
DYNAMICS = ("linear", "neural")

Between = Callable[..., Network]
"""(inputs, heads, *, hidden and constants if others than the default) -> a network of latents."""


class Sizes(NamedTuple):
    """The sizes of a state-space model."""

    num_frames: int  # T
    num_latents: int  # Z, of a frame
    num_features: int  # H, of a frame, outputs of the encoder

    def split(self, z: Array) -> Array:
        """Returns the latents [T, Z] of a vector [T Z]."""
        return z.reshape(self.num_frames, self.num_latents)

    def join(self, z: Array) -> Array:
        """Returns the vector [T Z] of latents [T, Z]."""
        return z.reshape(-1)


class SequencePrior(NamedTuple):
    """The prior of latents [T, Z] as a density of one vector z [T Z]."""

    sizes: Sizes
    prior: Markov

    def sample(self, key: Key) -> Array:
        """Draws z [T Z]."""
        return self.sizes.join(self.prior.sample(key))

    def log_prob(self, z: Array) -> Array:
        """Returns log p(z) [] of z [T Z], in nats."""
        return self.prior.log_prob(self.sizes.split(z))


def prior_family(dynamics: str, sizes: Sizes, between: Between, first: PriorFamily) -> PriorFamily:
    """Returns the family p(z_1) prod_t N(z_t; 0.9 z_{t-1} + mean, 0.19 exp(log_var)).

    Where mean and log_var are 0, N(0, I) is stationary.

    Args:
        dynamics: linear (mean is linear in z_{t-1}, and log_var constant), or neural (a network of
            z_{t-1} gives both).
        first: of z_1. It must not use the guide.
    """
    size = sizes.num_latents
    if dynamics == "linear":
        network = between(size, {"mean": size}, hidden=(), constants={"log_var": (size,)})
    else:
        network = between(size, dict.fromkeys(HEADS, size))

    def init(key: Key) -> PyTree:
        first_key, key = jax.random.split(key)
        of_first = {} if first.init is None else {"first": first.init(first_key)}
        return {"transition": network.init(key), **of_first}

    def prior(own: PyTree, posterior: Posterior) -> SequencePrior:
        def transition(before: Array) -> DiagNormal:
            heads = network.apply(own["transition"], before)
            return DiagNormal(RETAINED * before + heads["mean"], LOG_NOISE + heads["log_var"])

        of_first = first.prior(own.get("first"), posterior)
        return SequencePrior(sizes, Markov(of_first, transition, sizes.num_frames))

    return PriorFamily(prior, init)


class SequenceFamily(NamedTuple):
    """A family of guides of latents [T, Z], with the fields of a `GuideFamily`."""

    guide: Autoregressive
    heads: Mapping[str, int]
    stats: Callable[[PyTree, Heads], Steps]
    init: Callable[[Key], PyTree]

    def of_vector(self, sizes: Sizes) -> GuideFamily:
        """Returns the family of guides of one vector z [T Z]."""
        guide = of_vector(self.guide.guide, sizes, SequencePrior)
        return GuideFamily(guide, self.heads, self.stats, self.init)


def sequence_family(kind: str, sizes: Sizes, between: Between) -> SequenceFamily:
    """Returns the family of a name in GUIDES.

    The first three are diagonal Gaussians q(z_t | z_{t-1}, h_t), where h_t are recurrent units over
    the features of the frames: backward in time for smoothing (Krishnan et al. 2017), forward for
    filtering. With mean_field they run both ways, and q(z_t | h_t) does not depend on z_{t-1}.
    structured is a Gaussian of all frames with a block-tridiagonal precision (Archer et al. 2015):
    linear dynamics of its own, times a Gaussian factor of each frame.
    """
    if kind == "structured":
        return _structured_family(sizes, between)
    num_frames, size, num_features = sizes
    units = recurrent(num_frames, num_features, size=num_features, direction=DIRECTIONS[kind])
    has_memory = kind != "mean_field"
    num_units = num_features * (1 if has_memory else 2)
    network = between(num_units + size * has_memory, dict.fromkeys(HEADS, size))

    def factor_stats(shared: PyTree, each: Array, before: Array) -> DiagNormal:
        inputs = jnp.concatenate([each, before]) if has_memory else each
        return DiagNormal(**network.apply(shared, inputs))

    def stats(own: PyTree, heads: Heads) -> Steps:
        each = units.apply(own["units"], heads["features"])["features"]
        return Steps(own["step"], each, jnp.zeros(size, each.dtype))

    return SequenceFamily(
        Autoregressive(diag_normal, factor_stats),
        {"features": num_features},
        stats,
        init_of({"units": units, "step": network}),
    )


def _structured_family(sizes: Sizes, between: Between) -> SequenceFamily:
    num_frames, size, num_features = sizes
    network = between(num_features, dict.fromkeys(HEADS, size))

    def init(key: Key) -> PyTree:
        zeros = jnp.zeros(size)
        chain = {"slope": jnp.zeros((size, size)), "level": zeros, "log_var": zeros}
        return {"frame": network.init(key), "chain": chain}

    def stats(own: PyTree, heads: Heads) -> Steps:
        of_frame = jax.vmap(partial(network.apply, own["frame"]))(heads["features"])
        precision = jnp.exp(-of_frame["log_var"])
        zeros, slope = jnp.zeros(size, precision.dtype), own["chain"]["slope"]
        chain = linear_chain(
            DiagNormal(zeros, zeros), RETAINED * jnp.eye(size, dtype=slope.dtype) + slope,
            own["chain"]["level"], LOG_NOISE + own["chain"]["log_var"], num_frames,
        )  # fmt: skip
        observed = chain.observed(precision * of_frame["mean"], jax.vmap(jnp.diag)(precision))
        return observed.steps()

    return SequenceFamily(structured, {"features": num_features}, stats, init)


# From a frame to a window


class FrameModel(NamedTuple):
    """The parts of a state-space model that are of one frame, for filtering and prediction."""

    guide: Autoregressive  # its statistics are those of `VAE.encode`
    log_lik: Callable[[PyTree, Array, Array], Array]  # (params, z_t [Z], x_t [D]) -> [], nats
    mean: Callable[[PyTree, Array], Array]  # (params, z_t [Z]) -> E[x_t|z_t] [D]


def frame_model(guide: Autoregressive, decoder: Network, likelihood: Likelihood) -> FrameModel:
    """Returns the parts of one frame, of the parameters of the whole model."""

    def heads(params: PyTree, z: Array) -> Heads:
        return decoder.apply(params["decoder"], z)

    return FrameModel(
        guide,
        lambda params, z, x: likelihood.log_prob(heads(params, z), x),
        lambda params, z: likelihood.mean(heads(params, z)),
    )


def network_of_frames(network: Network, num_frames: int) -> Network:
    """Returns the network applied to each frame of its input [T n], with heads [T, ...]."""
    of_units = network.hidden

    def over_frames(function: Callable[[PyTree, Array], Any], params: PyTree, x: Array) -> Any:
        return jax.vmap(partial(function, params))(x.reshape(num_frames, -1))

    def hidden(params: PyTree, x: Array) -> Mapping[str, Array]:
        assert of_units is not None
        return {name: u.reshape(-1) for name, u in over_frames(of_units, params, x).items()}

    apply = partial(over_frames, network.apply)
    return Network(network.init, apply, hidden=None if of_units is None else hidden)


def likelihood_of_frames(likelihood: Likelihood, num_frames: int) -> Likelihood:
    """Returns the likelihood of x [T D], the product of those of its frames, of heads [T, ...]."""

    def log_probs(heads: Heads, x: Array) -> Array:
        each = jax.vmap(likelihood.log_probs)(heads, x.reshape(num_frames, -1))
        return each.reshape(-1) if each.ndim > 1 else jnp.sum(each)

    def flat(function: Callable[[Heads], Array]) -> Callable[[Heads], Array]:
        return lambda heads: jax.vmap(function)(heads).reshape(-1)

    def sample(key: Key, heads: Heads) -> Array:
        return jax.vmap(likelihood.sample)(jax.random.split(key, num_frames), heads).reshape(-1)

    return likelihood._replace(
        log_probs=log_probs, mean=flat(likelihood.mean), sample=sample,
        log_var=likelihood.log_var and flat(likelihood.log_var), heads_at_mean=None,
    )  # fmt: skip
