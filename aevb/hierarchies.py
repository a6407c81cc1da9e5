"""Several layers of latents z1, z2, ..., as families of guides and priors of one vector z.

z1 is nearest to the data. The vector z [Z] holds the layers one after the other, and `Layers` cuts
it into them, so that all that handles a vector of latents handles a hierarchy.

    bottom_up   q(z1|x) q(z2|z1) ...    Burda et al. (2015); p(x|z1)
    top_down    q(z2|x) q(z1|z2, x)     Tomczak & Welling (2018), section 3; p(x|z1, z2)
    ladder      q(z2|x) q(z1|z2, x)     Sønderby et al. (2016); p(x|z1)

In a ladder, q(z1|z2, x) is the prior p(z1|z2) times a Gaussian of x: the guide shares the prior's
parameters. The prior is p(z2) p(z1|z2), with any prior for the last layer.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from aevb import factors
from aevb.distributions import DiagNormal
from aevb.factors import Conditional, Given
from aevb.guides import GuideFamily, Heads, diag_normal
from aevb.losses import Guide, log_prior
from aevb.networks import Network, init_of
from aevb.priors import Posterior, PriorFamily
from aevb.types import Key, PyTree

HEADS = ("mean", "log_var")


class Layers(NamedTuple):
    """The sizes of the layers of latents, Z1, Z2, ..."""

    sizes: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names z1, z2, ... of the layers."""
        return tuple(f"z{number}" for number in range(1, len(self.sizes) + 1))

    def split(self, z: Array) -> dict[str, Array]:
        """Returns the layers of a vector [Z], or of vectors [..., Z]."""
        parts = jnp.split(z, list(accumulate(self.sizes))[:-1], axis=-1)
        return dict(zip(self.names, parts, strict=True))

    def join(self, z: Mapping[str, Array]) -> Array:
        """Returns the vector [Z] of the layers."""
        return jnp.concatenate([z[name] for name in self.names], axis=-1)


class LayeredPrior(NamedTuple):
    """A prior of several layers as a density of one vector z [Z]."""

    layers: Layers
    prior: factors.Prior

    def sample(self, key: Key) -> Array:
        """Draws z [Z], from the last layer to the first."""
        return self.layers.join(self.prior.sample(key))

    def log_prob(self, z: Array) -> Array:
        """Returns log p(z) [] of z [Z], in nats."""
        return self.prior.log_prob(self.layers.split(z))

    def mean_below(self, top: Array) -> Array:
        """Returns z [Z] with the last layer given, and each other one at its mean."""
        *below, last = self.layers.names
        z = {last: top}
        for name in reversed(below):
            z[name] = self.prior.factor(name, z).mean
        return self.layers.join(z)


class Parts(Protocol):
    """How a vector z [Z] is cut into its parts, such as `Layers`, and joined again."""

    def split(self, z: Array, /) -> Any: ...
    def join(self, z: Any, /) -> Array: ...


def of_vector(guide: Guide, layers: Parts, prior_type: type[Any] = LayeredPrior) -> Guide:
    """Returns a guide of named layers, or of other parts, as one of the vector z [Z].

    Args:
        prior_type: of a prior of the vector that has the prior of the parts as its field `prior`.
    """

    def sample(key: Key, stats: PyTree) -> Array:
        return layers.join(guide.sample(key, stats))

    def log_prob(stats: PyTree, z: Array) -> Array:
        return guide.log_prob(stats, layers.split(z))

    def sample_and_log_prob(key: Key, stats: PyTree) -> tuple[Array, Array]:
        assert guide.sample_and_log_prob is not None
        z, log_q = guide.sample_and_log_prob(key, stats)
        return layers.join(z), log_q

    def sample_and_kls(key: Key, stats: PyTree, prior: Any) -> tuple[Array, Mapping[str, Array]]:
        assert guide.sample_and_kls is not None
        z, kls = guide.sample_and_kls(key, stats, of_named_layers(prior))
        return layers.join(z), kls

    def of_named_layers(prior: Any) -> Any:
        if isinstance(prior, prior_type):
            return prior.prior
        return lambda z: log_prior(prior, layers.join(z))

    return Guide(sample, log_prob, None, sample_and_log_prob, sample_and_kls=sample_and_kls)


def bottom_up(layers: Layers, networks: Sequence[Network]) -> GuideFamily:
    """Returns the family q(z1|x) q(z2|z1) ..., each a diagonal Gaussian.

    Args:
        networks: from each layer to the mean and log_var of the next, one fewer than the layers.
    """
    first, *others = layers.names
    product: dict[str, Guide | Conditional] = {first: diag_normal}
    for below, name, network in zip(layers.names, others, networks, strict=False):
        product[name] = Conditional(diag_normal, (below,), _by_network(network))
    return GuideFamily(
        of_vector(factors.guide(product), layers),
        dict.fromkeys(HEADS, layers.sizes[0]),
        lambda own, heads: {first: DiagNormal(**heads), **own},
        init_of(dict(zip(others, networks, strict=True))),
    )


def top_down(layers: Layers, networks: Sequence[Network], num_features: int) -> GuideFamily:
    """Returns the family q(zL|x) ... q(z1|z2, x), each a diagonal Gaussian.

    Args:
        networks: for each layer but the last, from num_features features of x and the layer above
            it, joined, to its mean and log_var.
        num_features: of x, an output of the encoder.
    """
    *below, last = layers.names
    product: dict[str, Guide | Conditional] = {last: diag_normal}
    by_name = dict(zip(below, networks, strict=True))

    def given(network: Network) -> Callable[..., DiagNormal]:
        def stats(own: PyTree, above: Array) -> DiagNormal:
            inputs = jnp.concatenate([own["features"], above])
            return DiagNormal(**network.apply(own["network"], inputs))

        return stats

    for number in reversed(range(len(below))):
        name, above = layers.names[number : number + 2]
        product[name] = Conditional(diag_normal, (above,), given(by_name[name]))

    def stats(own: PyTree, heads: Heads) -> PyTree:
        *_, features = (heads[name] for name in (*HEADS, "features"))
        of_below = {name: {"network": own[name], "features": features} for name in below}
        return {last: DiagNormal(heads["mean"], heads["log_var"]), **of_below}

    return GuideFamily(
        of_vector(factors.guide(product), layers),
        {**dict.fromkeys(HEADS, layers.sizes[-1]), "features": num_features},
        stats,
        init_of(by_name),
    )


def ladder(
    layers: Layers, networks: Sequence[Network], priors: Sequence[Network], num_features: int
) -> GuideFamily:
    """Returns the family q(zL|x) ... q(z1|z2, x), with q(z1|z2, x) ~ p(z1|z2) N(z1; x).

    Sønderby et al. (2016). The means and precisions of the two Gaussians are combined as if x were
    one more observation. The features of x go upward, from layer to layer.

    Args:
        networks: for each layer but the first, from num_features features to its mean and log_var
            and, but for the last, to num_features features for the next.
        priors: the networks of `prior_family`, whose parameters the guide takes too.
        num_features: of x, an output of the encoder.
    """
    *below, last = layers.names
    upward = dict(zip(layers.names[1:], networks, strict=True))
    product: dict[str, Guide | Conditional] = {last: diag_normal}

    def given(prior: Network) -> Callable[..., DiagNormal]:
        def stats(own: PyTree, above: Array) -> DiagNormal:
            return combined(own["of_x"], DiagNormal(**prior.apply(own["prior"], above)))

        return stats

    for number in reversed(range(len(below))):
        name, above = layers.names[number : number + 2]
        product[name] = Conditional(diag_normal, (above,), given(priors[number]))

    def stats(own: PyTree, heads: Heads) -> PyTree:
        found, of_layer = {}, heads
        for name, above in pairwise(layers.names):
            of_x = DiagNormal(of_layer["mean"], of_layer["log_var"])
            found[name] = {"of_x": of_x, "prior": own["prior"][name]}
            of_layer = upward[above].apply(own[above], of_layer["features"])
        return {last: DiagNormal(of_layer["mean"], of_layer["log_var"]), **found}

    return GuideFamily(
        of_vector(factors.guide(product), layers),
        {**dict.fromkeys(HEADS, layers.sizes[0]), "features": num_features},
        stats,
        init_of(upward),
        shares_prior=True,
    )


def combined(first: DiagNormal, second: DiagNormal) -> DiagNormal:
    """Returns the Gaussian [Z] that is proportional to the product of two."""
    log_var = -jnp.logaddexp(-first.log_var, -second.log_var)
    weight = jnp.exp(log_var - first.log_var)
    return DiagNormal(weight * first.mean + (1.0 - weight) * second.mean, log_var)


def prior_family(layers: Layers, networks: Sequence[Network], top: PriorFamily) -> PriorFamily:
    """Returns the family p(zL) ... p(z1|z2), diagonal Gaussians below the last layer.

    Args:
        networks: for each layer but the last, from the layer above it to its mean and log_var.
        top: of the last layer. If it uses the guide, q(zL|x) must not depend on other layers.
    """
    *below, last = layers.names
    by_name = dict(zip(below, networks, strict=True))
    init_below = init_of(by_name)

    def init(key: Key) -> PyTree:
        below_key, top_key = jax.random.split(key)
        return init_below(below_key) | ({} if top.init is None else {last: top.init(top_key)})

    def prior(own: PyTree, posterior: Posterior) -> LayeredPrior:
        of_last = Posterior(diag_normal, lambda x: posterior.encode(x)[last])
        product: dict[str, Any] = {last: top.prior(own.get(last), of_last)}
        for number in reversed(range(len(below))):
            name, above = layers.names[number : number + 2]
            network, params = by_name[name], own[name]
            product[name] = Given(
                (above,),
                lambda z, network=network, params=params: DiagNormal(**network.apply(params, z)),
            )
        return LayeredPrior(layers, factors.prior(product))

    return PriorFamily(prior, init, top.uses_encoder)


def _by_network(network: Network) -> Callable[..., DiagNormal]:
    return lambda own, below: DiagNormal(**network.apply(own, below))
