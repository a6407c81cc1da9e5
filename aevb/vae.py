"""The variational auto-encoder: networks, likelihood and prior joined into pure functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb import guides, priors
from aevb.guides import GuideFamily
from aevb.likelihoods import Heads, Likelihood
from aevb.losses import Guide, Joint
from aevb.networks import Network
from aevb.priors import AnyPrior, Posterior, PriorFamily
from aevb.types import Key, PyTree


class VAE(NamedTuple):
    """The model p_theta(x, z) = p(z) p_theta(x|z) and the guide q_phi(z|x), for one datapoint."""

    # key -> {"decoder": theta, "encoder": phi}, and "guide" and "prior" if they have parameters
    init: Callable[[Key], PyTree]
    encode: Callable[[PyTree, Array], PyTree]  # (params, x [D]) -> statistics of q(z|x)
    guide: Guide
    joint: Callable[[PyTree, Array], Joint]  # (params, x [D]) -> p(z) and log p(x|z)
    prior: Callable[[PyTree], Any]  # params -> p(z), an AnyPrior
    mean: Callable[[PyTree, Array], Array]  # (params, z [Z]) -> E[x|z] [D]
    draw: Callable[[Key, PyTree, Array], Array]  # (key, params, z [Z]) -> x ~ p(x|z) [D]
    sample: Callable[[Key, PyTree], tuple[Array, Array]]  # (key, params) -> z [Z], x [D], ancestral
    num_latents: int
    has_encoder: bool = True  # without an encoder, q(z|x) does not depend on x
    levels: float | None = None  # if set, p(x|z) is a probability of x = k / levels
    takes_weight_posteriors: bool = False  # whether theta can be a networks.WeightPosterior
    # (params, z [Z]) -> log variances of p(x|z) [D] or [1]; None if it has none
    log_var: Callable[[PyTree, Array], Array] | None = None
    # (params, x [D], z [Z]) -> the hidden units of each layer, by network and layer
    hidden: Callable[[PyTree, Array, Array], Mapping[str, Array]] = lambda params, x, z: {}
    layer_sizes: tuple[int, ...] = ()  # Z1, Z2, ... of several layers of latents, which z joins


def make(
    encoder: Network | None,
    decoder: Network,
    likelihood: Likelihood,
    *,
    num_latents: int,
    guide_family: GuideFamily | None = None,
    prior_family: PriorFamily | None = None,
) -> VAE:
    """Returns the paper's model, or one with another guide or prior.

    Args:
        encoder: from x [D] to the heads of the guide's family; None if the family has no heads.
        decoder: from z [Z] to the heads of the likelihood; its constants are the likelihood's
            shared statistics.
        likelihood: p(x|z) given the decoder's heads.
        num_latents: Z.
        guide_family: q(z|x), made by an entry of `guides.GUIDES`; None for the diagonal Gaussian,
            with the heads mean [Z] and log_var [Z].
        prior_family: p(z), made by an entry of `priors.PRIORS`; None for N(0, I). That is the only
            entry to which the Gaussian guides have a closed-form KL.
    """
    family = guide_family or guides.diag_normal_family(guides.Sizes(num_latents))
    prior_family = prior_family or priors.standard_normal(priors.Options(num_latents))

    def init(key: Key) -> PyTree:
        """Draws the parameters. A part without parameters has no entry."""
        encoder_key, decoder_key, guide_key, prior_key = jax.random.split(key, 4)
        params = {"decoder": decoder.init(decoder_key)}
        if encoder is not None:
            params["encoder"] = encoder.init(encoder_key)
        if family.init is not None:
            params["guide"] = family.init(guide_key)
        if prior_family.init is not None:
            params["prior"] = prior_family.init(prior_key)
        return params

    def encode(params: PyTree, x: Array) -> PyTree:
        heads = {} if encoder is None else encoder.apply(params["encoder"], x)
        return family.stats(params.get("guide"), heads)

    def prior(params: PyTree) -> AnyPrior:
        posterior = Posterior(family.guide, lambda x: encode(params, x))
        return prior_family.prior(params.get("prior"), posterior)

    def decode(params: PyTree, z: Array) -> Heads:
        return decoder.apply(params["decoder"], z)

    def joint(params: PyTree, x: Array) -> Joint:
        return Joint(
            prior=prior(params),
            log_lik=lambda z: likelihood.log_prob(decode(params, z), x),
        )

    def mean(params: PyTree, z: Array) -> Array:
        return likelihood.mean(decode(params, z))

    def log_var(params: PyTree, z: Array) -> Array:
        assert likelihood.log_var is not None
        return likelihood.log_var(decode(params, z))

    def hidden(params: PyTree, x: Array, z: Array) -> dict[str, Array]:
        found = {}
        for part, network, value in (("encoder", encoder, x), ("decoder", decoder, z)):
            if network is not None and network.hidden is not None:
                layers = network.hidden(params[part], value)
                found |= {f"{layer} of the {part}": units for layer, units in layers.items()}
        return found

    def draw(key: Key, params: PyTree, z: Array) -> Array:
        return likelihood.sample(key, decode(params, z))

    def sample(key: Key, params: PyTree) -> tuple[Array, Array]:
        prior_key, likelihood_key = jax.random.split(key)
        dtype = jnp.result_type(*jax.tree.leaves(params["decoder"]))
        z = prior(params).sample(prior_key).astype(dtype)
        return z, draw(likelihood_key, params, z)

    return VAE(
        init, encode, family.guide, joint, prior, mean, draw, sample, num_latents,
        encoder is not None, likelihood.levels, decoder.takes_weight_posteriors,
        likelihood.log_var and log_var, hidden,
    )  # fmt: skip


def of_last_layer(vae: VAE) -> VAE:
    """Returns a model of several layers as seen from its last one, for pictures.

    `mean` takes the last layer, with the layers below at their means under p, and `guide` samples
    it. The densities are not those of a model.
    """
    if not vae.layer_sizes:
        return vae
    size = vae.layer_sizes[-1]
    return vae._replace(
        mean=lambda params, z: vae.mean(params, vae.prior(params).mean_below(z)),
        guide=Guide(lambda key, stats: vae.guide.sample(key, stats)[-size:], vae.guide.log_prob),
        num_latents=size,
    )
