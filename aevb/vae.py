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
    frame: Any = None  # the parts of a frame of a state-space model, a `state_space.FrameModel`
    layer_sizes: tuple[int, ...] = ()  # Z1, Z2, ... of several layers of latents, which z joins
    num_labels: int = 0  # C: z begins with a one-hot label y [C], and x may end with its label
    given_label: Guide | None = None  # q(z|x, y), if there are labels

    @property
    def size_of_z(self) -> int:
        """The number of latents without the one-hot label that z may begin with."""
        return self.num_latents - self.num_labels


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

    Raises:
        ValueError: the guide and the prior have other values of z.
    """
    family = guide_family or guides.diag_normal_family(guides.Sizes(num_latents))
    prior = prior_family or priors.standard_normal(priors.Options(num_latents))
    if prior.support not in (None, family.guide.support):
        raise ValueError(
            f"the prior is of {prior.support} and the guide of {family.guide.support}; they must "
            "have the same values of z"
        )
    parts = _Parts(encoder, decoder, likelihood, family, prior)
    return VAE(
        init=parts.init,
        encode=parts.encode,
        guide=family.guide,
        joint=parts.joint,
        prior=parts.prior,
        mean=parts.mean,
        draw=parts.draw,
        sample=parts.sample,
        num_latents=num_latents,
        has_encoder=encoder is not None,
        levels=likelihood.levels,
        takes_weight_posteriors=decoder.takes_weight_posteriors,
        log_var=likelihood.log_var and parts.log_var,
        hidden=parts.hidden,
    )


class _Parts(NamedTuple):
    """The functions of a VAE, with its parts closed over."""

    encoder: Network | None
    decoder: Network
    likelihood: Likelihood
    guide_family: GuideFamily
    prior_family: PriorFamily

    def init(self, key: Key) -> PyTree:
        """Draws the parameters. A part without parameters has no entry."""
        encoder_key, decoder_key, guide_key, prior_key = jax.random.split(key, 4)
        params = {"decoder": self.decoder.init(decoder_key)}
        if self.encoder is not None:
            params["encoder"] = self.encoder.init(encoder_key)
        if self.guide_family.init is not None:
            params["guide"] = self.guide_family.init(guide_key)
        if self.prior_family.init is not None:
            params["prior"] = self.prior_family.init(prior_key)
        return params

    def encode(self, params: PyTree, x: Array) -> PyTree:
        heads = {} if self.encoder is None else self.encoder.apply(params["encoder"], x)
        own = params.get("guide")
        if self.guide_family.shares_prior:
            own = {**own, "prior": params["prior"]}
        return self.guide_family.stats(own, heads)

    def prior(self, params: PyTree) -> AnyPrior:
        posterior = Posterior(self.guide_family.guide, lambda x: self.encode(params, x))
        return self.prior_family.prior(params.get("prior"), posterior)

    def decode(self, params: PyTree, z: Array) -> Heads:
        return self.decoder.apply(params["decoder"], self.seen(z))

    def seen(self, z: Array) -> Array:
        """Returns what the decoder takes of z, [Z]."""
        to_decoder = self.prior_family.to_decoder
        return z if to_decoder is None else to_decoder(z)

    def joint(self, params: PyTree, x: Array) -> Joint:
        return Joint(
            prior=self.prior(params),
            log_lik=lambda z: self.likelihood.log_prob(self.decode(params, z), x),
        )

    def mean(self, params: PyTree, z: Array) -> Array:
        return self.likelihood.mean(self.decode(params, z))

    def log_var(self, params: PyTree, z: Array) -> Array:
        assert self.likelihood.log_var is not None
        return self.likelihood.log_var(self.decode(params, z))

    def hidden(self, params: PyTree, x: Array, z: Array) -> dict[str, Array]:
        found = {}
        inputs = (("encoder", self.encoder, x), ("decoder", self.decoder, self.seen(z)))
        for part, network, value in inputs:
            if network is not None and network.hidden is not None:
                layers = network.hidden(params[part], value)
                found |= {f"{layer} of the {part}": units for layer, units in layers.items()}
        return found

    def draw(self, key: Key, params: PyTree, z: Array) -> Array:
        return self.likelihood.sample(key, self.decode(params, z))

    def sample(self, key: Key, params: PyTree) -> tuple[Array, Array]:
        prior_key, likelihood_key = jax.random.split(key)
        dtype = jnp.result_type(*jax.tree.leaves(params["decoder"]))
        z = self.prior(params).sample(prior_key).astype(dtype)
        return z, self.draw(likelihood_key, params, z)


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
