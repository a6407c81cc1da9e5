"""The variational auto-encoder: networks, likelihood and prior joined into pure functions."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import Array

from aevb import guides
from aevb.distributions import DiagNormal, StandardNormal
from aevb.likelihoods import Heads, Likelihood
from aevb.losses import Guide, Joint
from aevb.networks import Network
from aevb.types import Key, PyTree


class VAE(NamedTuple):
    """p_theta(x, z) = p(z) p_theta(x|z) with the guide q_phi(z|x); one datapoint at a time."""

    init: Callable[[Key], PyTree]  # -> {"encoder": phi, "decoder": theta}
    encode: Callable[[PyTree, Array], PyTree]  # (params, x [D]) -> statistics of q(z|x)
    guide: Guide
    joint: Callable[[PyTree, Array], Joint]  # (params, x [D]) -> log p(z), log p(x|z)
    mean: Callable[[PyTree, Array], Array]  # (params, z [Z]) -> E[x|z] [D]
    sample: Callable[[Key, PyTree], tuple[Array, Array]]  # -> z [Z], x [D], ancestral
    num_latents: int
    levels: float | None = None  # log p(x|z) is that of probabilities of x = k / levels; None: not


def make(encoder: Network, decoder: Network, likelihood: Likelihood, *, num_latents: int) -> VAE:
    """The paper's model: p(z) = N(0, I), q(z|x) a diagonal Gaussian of the encoder's heads.

    Args:
        encoder: from x [D] to the heads mean [Z] and log_var [Z].
        decoder: from z [Z] to the heads of the likelihood and, as constants, what it shares.
        likelihood: p(x|z) given the decoder's heads.
        num_latents: Z.
    """
    prior = StandardNormal(num_latents)

    def init(key: Key) -> PyTree:
        encoder_key, decoder_key = jax.random.split(key)
        return {"encoder": encoder.init(encoder_key), "decoder": decoder.init(decoder_key)}

    def encode(params: PyTree, x: Array) -> DiagNormal:
        return DiagNormal(**encoder.apply(params["encoder"], x))

    def decode(params: PyTree, z: Array) -> Heads:
        return decoder.apply(params["decoder"], z)

    def joint(params: PyTree, x: Array) -> Joint:
        return Joint(
            log_prior=prior.log_prob,
            log_lik=lambda z: likelihood.log_prob(decode(params, z), x),
        )

    def mean(params: PyTree, z: Array) -> Array:
        return likelihood.mean(decode(params, z))

    def sample(key: Key, params: PyTree) -> tuple[Array, Array]:
        prior_key, likelihood_key = jax.random.split(key)
        z = prior.sample(prior_key)
        return z, likelihood.sample(likelihood_key, decode(params, z))

    return VAE(
        init, encode, guides.diag_normal, joint, mean, sample, num_latents, likelihood.levels
    )
