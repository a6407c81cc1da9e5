"""A call of every public function of the mathematics, on arrays that are cast to a dtype."""

# NumPy arrays stand in for JAX's until they are cast.
# pyright: reportArgumentType=false

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import state_space
from linear_models import linear_vae

from aevb import (
    classical,
    enumeration,
    factors,
    guides,
    labels,
    latents,
    likelihoods,
    missing,
    optimizers,
    priors,
    proposals,
    reparam,
    vae,
)
from aevb.algorithms import ALGORITHMS
from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.classical import families, normal_gamma, normal_wishart
from aevb.classical.divergences import Mixture
from aevb.classical.linear_gaussian import Params
from aevb.classical.matrix_normal import MatrixNormal
from aevb.discrete import Bernoulli, Categorical, RelaxedBernoulli, RelaxedCategorical
from aevb.distributions import DiagNormal, FullNormal, PreciseNormal, StandardNormal
from aevb.evaluation.diagnostics import Moments
from aevb.guides import diag_normal
from aevb.inference import hmc, importance_weights
from aevb.inference.annealed_importance_sampling import Path
from aevb.losses import BOUNDS, Joint, iwae
from aevb.marginal import ESTIMATORS
from aevb.reparam.family import Family
from aevb.reparam.gamma import GammaNoise

KEY = jax.random.key(0)
DIGITS = 1e-5  # about 80 roundings of float32, relative to the largest entry of an array


class Case(NamedTuple):
    """One call, and what is expected of it."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...]  # pytrees of NumPy arrays in float64
    names: tuple[str, ...]  # the public functions that it stands for
    tolerance: float = DIGITS  # of float32 against float64, relative to the largest entry
    is_comparable: bool = True  # whether float32 and float64 can have the same noise
    promotes: bool = False  # whether a library beneath it mixes dtypes

    @property
    def takes_floats(self) -> bool:
        return bool(jax.tree.leaves(self.arguments))


CASES: dict[str, Case] = {}


class By(NamedTuple):
    """A call of a function in a way of its own: `how(function, *arguments)`."""

    how: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]


def by(how: Callable[..., Any], *arguments: Any, **options: Any) -> By:
    return By(how, arguments, options)


def calls(module: str, **functions: Any) -> None:
    """Adds a case for each function of a module; the value is its arguments, or a `By`.

    `Class__method` is a method; its first argument is the object.
    """
    code = importlib.import_module(f"aevb.{module}")
    for name, given in functions.items():
        path = name.split("__")
        function = code
        for part in path:
            function = getattr(function, part)
        full = f"{module}.{'.'.join(path)}"
        given = given if isinstance(given, By) else By(lambda f, *args: f(*args), given, {})
        call = partial(given.how, function)
        CASES[full] = Case(call, given.arguments, (full,), **given.options)


def entries(table: str, entry: str, call: Callable[..., Any], *arguments: Any, **more: Any) -> None:
    """Adds a case of an entry of a table, which stands for the functions in `names` too."""
    names = tuple(more.pop("names", ()))
    CASES[f"{table}: {entry}"] = Case(call, arguments, names, **more)


def cast(tree: Any, dtype: type) -> Any:
    """Returns the pytree with its arrays of floats in another dtype."""

    def of(leaf: Any) -> Any:
        is_float = isinstance(leaf, (np.ndarray, np.floating)) and leaf.dtype == np.float64
        return jnp.asarray(leaf, dtype) if is_float else leaf

    return jax.tree.map(of, tree)


def modules_of(package: str) -> list[str]:
    folder = importlib.import_module(f"aevb.{package}")
    return [module.name for module in pkgutil.iter_modules(folder.__path__)]


# The same noise in both dtypes


def draw_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes jax.random draw in float32 and cast, so that float32 and float64 get the same noise."""
    import blackjax.util

    def narrow(value: Any) -> Any:
        is_float = hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)
        return value.astype(jnp.float32) if is_float else value

    def in_float32(draw: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        signature = inspect.signature(draw)

        def drawn(*args: Any, **kwargs: Any) -> jax.Array:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            if "dtype" not in signature.parameters:  # draws of bools and indices
                return draw(**{name: narrow(value) for name, value in bound.arguments.items()})
            wanted = bound.arguments.pop("dtype")
            given = {name: narrow(value) for name, value in bound.arguments.items()}
            default = jnp.zeros(()).dtype
            return draw(**given, dtype=jnp.float32).astype(
                default if wanted in (None, float) else wanted
            )

        return drawn

    for name in (
        "normal",
        "uniform",
        "gamma",
        "loggamma",
        "logistic",
        "bernoulli",
        "categorical",
        "gumbel",
    ):
        monkeypatch.setattr(jax.random, name, in_float32(getattr(jax.random, name)))
    monkeypatch.setattr(blackjax.util, "normal", jax.random.normal)


# Arguments

RNG = np.random.default_rng(0)
ONE, HALF = np.array(1.0), np.array(0.5)
VECTOR, PAIR = RNG.normal(size=3), RNG.normal(size=2)
POSITIVE = np.exp(0.3 * RNG.normal(size=3))
UNIFORM = RNG.uniform(0.1, 0.9, size=3)
COUNTS = np.array([0.0, 3.0, 40.0])
X = RNG.normal(size=(12, 3))
COVARIANCE = np.cov(RNG.normal(size=(20, 3)).T)
TRIL = np.linalg.cholesky(COVARIANCE)
BITS = (RNG.uniform(size=12) < 0.6).astype(np.float64)
STATS = DiagNormal(PAIR, np.array([-0.5, 0.2]))
LINEAR = (RNG.normal(size=(4, 2)), RNG.normal(size=4), np.log([0.5, 0.8, 1.0, 1.2]),
          RNG.normal(size=4))  # weights, bias, log variance and x of a linear model  # fmt: skip
LOG_WEIGHTS = RNG.normal(size=100)


def joint_of(linear: Any) -> Joint:
    weights, bias, log_var, x = linear
    return Joint(
        StandardNormal(2, x.dtype),
        lambda z: DiagNormal(weights @ z + bias, log_var).log_prob(x),
    )


def with_gradient(function: Callable[[Any], jax.Array]) -> Callable[[Any], Any]:
    return jax.value_and_grad(function)


# Distributions, likelihoods, priors and guides

NORMAL = DiagNormal(VECTOR, 0.3 * VECTOR)
PRECISE = PreciseNormal(VECTOR, np.diag(POSITIVE) + np.tril(np.full((3, 3), 0.2), -1))
FULL = FullNormal(VECTOR, 0.2 * VECTOR, POSITIVE)
calls(
    "distributions",
    DiagNormal__sample=(NORMAL, KEY),
    DiagNormal__log_prob=(NORMAL, POSITIVE),
    DiagNormal__log_probs=(NORMAL, POSITIVE),
    DiagNormal__sample_and_log_prob=(NORMAL, KEY),
    DiagNormal__entropy=(NORMAL,),
    DiagNormal__kl=(NORMAL, DiagNormal(POSITIVE, VECTOR)),
    DiagNormal__kl_per_unit=(NORMAL, DiagNormal(POSITIVE, VECTOR)),
    DiagNormal__kl_to_standard_normal=(NORMAL,),
    DiagNormal__kl_per_unit_to_standard_normal=(NORMAL,),
    FullNormal__factor=(FULL,),
    FullNormal__sample=(FULL, KEY),
    FullNormal__sample_and_log_prob=(FULL, KEY),
    FullNormal__log_prob=(FULL, POSITIVE),
    FullNormal__kl_to_standard_normal=(FULL,),
    FullNormal__kl=by(lambda f, full: f(full, StandardNormal(3)), FULL),
    PreciseNormal__sample_and_log_prob=(PRECISE, KEY),
    PreciseNormal__log_prob=(PRECISE, POSITIVE),
    PreciseNormal__kl=by(lambda f, precise: f(precise, StandardNormal(3)), PRECISE),
    StandardNormal__sample=by(lambda f, like: f(StandardNormal(3, like.dtype), KEY), ONE),
    StandardNormal__log_prob=by(lambda f, z: f(StandardNormal(3), z), VECTOR),
    student_t_log_prob=(VECTOR, 5.0 * POSITIVE),
    poisson_log_prob=(COUNTS, VECTOR),
    negative_binomial_log_prob=(COUNTS, VECTOR, UNIFORM),
    zero_inflated_log_prob=(COUNTS, -POSITIVE, VECTOR),
    stirling_error=(POSITIVE,),
)


def scored(likelihood: likelihoods.Likelihood, heads: Any, x: jax.Array) -> Any:
    log_prob = with_gradient(lambda heads: likelihood.log_prob(heads, x))(heads)
    at_mean = likelihood.heads_at_mean(x) if likelihood.heads_at_mean else {}
    return log_prob, likelihood.mean(heads), likelihood.sample(KEY, heads), at_mean


for entry, make in likelihoods.LIKELIHOODS.items():
    made = make(3)
    statistics = {name: 0.5 * RNG.normal(size=3 * size) for name, size in made.heads.items()}
    statistics |= {name: 0.5 * RNG.normal(size=shape) for name, shape in made.shared.items()}
    observed = BITS[:3] if made.kinds == ("binary",) else np.floor(256 * UNIFORM) / 256
    observed = COUNTS if made.kinds == ("counts",) else observed
    entries(
        "likelihood", entry, partial(scored, made), statistics, observed,
        names=["likelihoods.Likelihood.log_prob"]
        + [f"likelihoods.{entry}{part}" for part in ("", "_log_probs", "_mean", "_sample")],
    )  # fmt: skip
calls("likelihoods", level_of=(UNIFORM,))


BERNOULLI, CATEGORICAL = Bernoulli(VECTOR), Categorical(RNG.normal(size=(2, 3)))
ROWS = np.eye(3)[[1, 0]].ravel()
LOG_ROWS = np.log([0.2, 0.3, 0.5, 0.1, 0.8, 0.1])


def relaxed(kind: Any, method: str) -> By:
    """Calls a method of a relaxation with these logits."""

    def call(function: Any, logits: jax.Array, z: jax.Array) -> Any:
        return function(kind(logits, 0.7), KEY if "sample" in method else z)

    if kind is RelaxedBernoulli:
        return by(call, VECTOR, POSITIVE)
    return by(call, CATEGORICAL.logits, LOG_ROWS)


calls(
    "discrete",
    Bernoulli__mean=(BERNOULLI,),
    Bernoulli__log_var=(BERNOULLI,),
    Bernoulli__sample=(BERNOULLI, KEY),
    Bernoulli__log_prob=(BERNOULLI, BITS[:3]),
    Bernoulli__kl=(BERNOULLI, Bernoulli(POSITIVE)),
    Bernoulli__kl_per_unit=(BERNOULLI, Bernoulli(POSITIVE)),
    Categorical__mean=(CATEGORICAL,),
    Categorical__log_var=(CATEGORICAL,),
    Categorical__sample=(CATEGORICAL, KEY),
    Categorical__log_prob=(CATEGORICAL, ROWS),
    Categorical__kl=(CATEGORICAL, Categorical(X[:2])),
    **{f"RelaxedBernoulli__{name}": relaxed(RelaxedBernoulli, name)
       for name in ("sample", "log_prob", "sample_and_log_prob")},
    **{f"RelaxedCategorical__{name}": relaxed(RelaxedCategorical, name)
       for name in ("sample", "log_prob")},
)  # fmt: skip


def prior_of(entry: str, own: Any, z: jax.Array) -> Any:
    options = priors.Options(3, 2, lambda number: jnp.zeros((number, 3)))
    posterior = priors.Posterior(diag_normal, lambda x: DiagNormal(x, 0.5 * x))
    prior = priors.PRIORS[entry](options, **OF_THREE.get(entry, {})).prior(own, posterior)
    return (
        prior.log_prob(z) if entry == "standard_normal" else (prior.log_prob(z), prior.sample(KEY))
    )


OWN_OF_PRIORS: dict[str, Any] = {
    "standard_normal": {},
    "mixture": {"logits": PAIR, "mean": X[:2], "log_var": X[2:4]},
    "vamp": {"pseudo_inputs": X[:2]},
    "bernoulli": {"logits": VECTOR},
    "categorical": {"logits": X[:1]},
    "relaxed_bernoulli": {"logits": VECTOR},
    "relaxed_categorical": {"logits": X[:1]},
}
OF_THREE = {name: {"num_classes": 3} for name in ("categorical", "relaxed_categorical")}
VALUES = {  # of z; others are VECTOR
    "bernoulli": BITS[:3], "categorical": ROWS[:3], "relaxed_categorical": LOG_ROWS[:3],
}  # fmt: skip
for entry in priors.PRIORS:
    entries(
        "prior", entry, partial(prior_of, entry), OWN_OF_PRIORS[entry], VALUES.get(entry, VECTOR),
        names=[f"priors.{entry}"],
    )  # fmt: skip

SIZES = guides.Sizes(3, 2, 4)


def guided(entry: str, own: Any, heads: Any, z: jax.Array) -> Any:
    family = guides.GUIDES[entry](SIZES, **OF_THREE.get(entry, {}))
    stats = family.stats(own, heads)
    drawn = family.guide.sample(KEY, stats)
    log_prob = with_gradient(lambda stats: family.guide.log_prob(stats, z))(stats)
    both = family.guide.sample_and_log_prob
    return drawn, log_prob, both(KEY, stats) if both else drawn


for entry, make in guides.GUIDES.items():
    family = make(SIZES, **OF_THREE.get(entry, {}))
    own = None if family.init is None else jax.tree.map(
        lambda leaf: 0.5 * RNG.normal(size=leaf.shape), jax.eval_shape(family.init, KEY)
    )  # fmt: skip
    heads = {name: 0.5 * RNG.normal(size=size) for name, size in family.heads.items()}
    entries(
        "guide", entry, partial(guided, entry), own, heads, VALUES.get(entry, VECTOR),
        names=[f"guides.{entry}_family", f"guides.{entry}", "guides.flows.flow_guide"],
    )  # fmt: skip
calls(
    "guides",
    standard_normal_family=by(lambda f: f(SIZES).stats(None, {})),
    full_normal_family=by(
        lambda f, heads: f(guides.Sizes(1)).guide.log_prob(
            f(guides.Sizes(1)).stats(None, heads), heads["mean"]
        ),
        {"mean": VECTOR[:1], "log_diag": VECTOR[1:2]},
    ),
)
calls("guides.flows", init_autoregressive=by(lambda f: f(KEY, 3, 4)))

# Enumerations


def enumerated(how: Callable[..., Any]) -> By:
    """Calls a function with the values of two latents, and a model of them."""

    def call(function: Any, logits: jax.Array, slope: jax.Array) -> Any:
        values = enumeration.binary_values(2).astype(logits.dtype)
        joint = Joint(Bernoulli(slope), lambda z: jnp.sum(z * logits))
        return how(function, values, Bernoulli(logits), joint)

    return by(call, PAIR, 2.0 * PAIR)


calls(
    "enumeration",
    binary_values=by(lambda f: f(3)),
    one_hot_values=by(lambda f: f(2, 3)),
    log_prob=enumerated(lambda f, values, q, joint: f(values, joint)),
    posterior=enumerated(lambda f, values, q, joint: f(values, joint)),
    elbo=enumerated(lambda f, values, q, joint: f(values, q, guides.bernoulli, joint)),
    sum_over=enumerated(
        lambda f, values, q, joint: f(values, q, guides.bernoulli, joint.log_prior)
    ),
    log_joint_of=enumerated(lambda f, values, q, joint: f(joint)(values[0])),
)

# Several latents, and missing values


def two_factors(mean: jax.Array) -> tuple[factors.Prior, Any, Any]:
    """Returns the prior, the guide and its statistics of two latents, of which one is given."""

    def given(own: jax.Array, a: jax.Array) -> DiagNormal:
        return DiagNormal(own + a, 0.5 * a)

    prior = factors.prior(
        {
            "a": DiagNormal(mean, 0.1 * mean),
            "b": factors.Given(("a",), lambda a: DiagNormal(a, 0.5 * a)),
        }
    )
    guide = factors.guide({"a": diag_normal, "b": factors.Conditional(diag_normal, ("a",), given)})
    return prior, guide, {"a": DiagNormal(0.5 * mean, mean), "b": mean}


def factored(function: Any, mean: jax.Array) -> Any:
    del function  # it makes the two
    prior, guide, stats = two_factors(mean)
    z = guide.sample(KEY, stats)
    terms = guide.sample_and_kls(KEY, stats, prior)[1]
    return guide.log_prob(stats, z), terms, guide.sample_and_log_prob(KEY, stats)


def vectors_of(mean: jax.Array) -> tuple[latents.Vectors, Any]:
    prior, guide, stats = two_factors(mean)
    joint = Joint(prior, lambda z: -jnp.sum(jnp.square(z["b"])))
    return latents.as_vectors(stats, guide, joint), stats


def in_vectors(function: Any, mean: jax.Array) -> Any:
    vectors, stats = vectors_of(mean)
    guide = latents.of_structure(vectors.guide, vectors)
    z = guide.sample(KEY, stats)
    vector = vectors.ravel(z)
    log_q = vectors.guide.log_prob(stats, vector), guide.log_prob(stats, z)
    return z, log_q, vectors.joint.log_prior(vector), vectors.joint.log_lik(vector)


calls(
    "factors",
    prior=by(factored, VECTOR),
    guide=by(factored, VECTOR),
    sum_of=by(lambda f, x: f([x, x]), ONE),
    plate=by(lambda f, x: f(KEY, lambda key, theta, one: theta * one, x, num_data=9)(x[0]), VECTOR),
    Prior__factor=by(lambda f, x: f(two_factors(x)[0], "b", {"a": x}), VECTOR),
    Prior__sample=by(lambda f, x: f(two_factors(x)[0], KEY), VECTOR),
    Prior__log_prob=by(lambda f, x: f(two_factors(x)[0], {"a": x, "b": 0.5 * x}), VECTOR),
)
calls("latents", as_vectors=by(in_vectors, VECTOR), of_structure=by(in_vectors, VECTOR))


def masked(x: jax.Array) -> jax.Array:
    return x.at[1].set(jnp.nan)


def imputed(function: Any, stats: Any, linear: Any) -> Any:
    weights, bias, log_var, x = linear
    seen = missing.of_seen(likelihoods.gaussian)

    def heads(z: jax.Array) -> Any:
        return {"mean": weights @ z + bias, "log_var": log_var}

    joint = Joint(StandardNormal(2, x.dtype), lambda z: seen.log_prob(heads(z), masked(x)))
    found = function(
        KEY, masked(x), stats, diag_normal, joint, mean=lambda z: heads(z)["mean"],
        draw=lambda key, z: heads(z)["mean"], num_samples=20, num_draws=2,
    )  # fmt: skip
    # Which samples are drawn is random, and other in float64.
    return found._replace(draws=jnp.zeros_like(found.draws))


calls(
    "missing",
    with_mask=by(lambda f, x: f(masked(x)), VECTOR),
    of_seen=by(
        lambda f, normal, x: f(likelihoods.gaussian).log_prob(normal._asdict(), masked(x)),
        NORMAL, POSITIVE,
    ),
    impute=by(imputed, STATS, LINEAR),
)  # fmt: skip

SEQUENCE = state_space.make(4, 2, 3, 0)


def of_prior(function: Any, params: Any, *args: Any) -> Any:
    return function(state_space.prior_of(params, 4), *args)


def of_steps(function: Any, params: Any, *args: Any) -> Any:
    guide, stats = state_space.guide_of(params)
    return function(guide, *(stats if arg is None else arg for arg in args))


calls(
    "sequences",
    joint=by(
        lambda f, p, x, z: f(state_space.prior_of(p, 4), state_space.log_lik_of(p), x).log_lik(z),
        *SEQUENCE[::-1], SEQUENCE.params["own"],
    ),
    linear_chain=by(
        lambda f, first, slope: f(first, slope, first.mean, first.log_var, 4),
        DiagNormal(VECTOR, 0.1 * VECTOR), PRECISE.factor,
    ),
    Markov__sample=by(lambda f, p: of_prior(f, p, KEY), SEQUENCE.params),
    Markov__after=by(lambda f, p: of_prior(f, p, KEY, p["start"], 3), SEQUENCE.params),
    Markov__log_prob=by(lambda f, p: of_prior(f, p, p["own"]), SEQUENCE.params),
    Autoregressive__sample_and_log_prob=by(
        lambda f, p: of_steps(f, p, KEY, None), SEQUENCE.params
    ),
    Autoregressive__stats_at=by(lambda f, p: of_steps(f, p, None, p["own"]), SEQUENCE.params),
    Autoregressive__log_prob=by(lambda f, p: of_steps(f, p, None, p["own"]), SEQUENCE.params),
    Autoregressive__sample_and_kls=by(
        lambda f, p: of_steps(f, p, KEY, None, state_space.prior_of(p, 4)), SEQUENCE.params
    ),
    Autoregressive__filter=by(
        lambda f, p, x: of_steps(
            partial(f, num_particles=5), p, KEY, None, state_space.prior_of(p, 4),
            state_space.log_lik_of(p), x,
        ),
        *SEQUENCE[::-1],
    ),
    Chain__observed=by(
        lambda f, p, x: f(state_space.posterior_of(p, x), p["own"], jnp.zeros((4, 2, 2), x.dtype)),
        *SEQUENCE[::-1],
    ),
    Chain__steps=by(lambda f, p, x: f(state_space.posterior_of(p, x)), *SEQUENCE[::-1]),
)  # fmt: skip

# Labels


def labelled(mean: jax.Array, linear: Any) -> labels.Labelled:
    """Returns a model of three labels, of which each shifts the mean of x."""
    weights, bias, log_var, x = linear
    stats = DiagNormal(jnp.stack([mean, 0.5 * mean, -mean]), jnp.zeros((3, 2), mean.dtype))

    def joint(label: jax.Array) -> Joint:
        return joint_of((weights, bias + label.astype(x.dtype), log_var, x))

    logits = jnp.concatenate([mean, mean[:1]])
    return labels.Labelled(jax.nn.log_softmax(logits), logits, stats, diag_normal, joint)


def with_label(function: Any, mean: jax.Array, linear: Any) -> Any:
    def value(mean: jax.Array, label: jax.Array) -> jax.Array:
        return function(KEY, label, labelled(mean, linear))

    return jax.vmap(jax.value_and_grad(value), in_axes=(None, 0))(mean, jnp.arange(3))


def with_labels_enumerated(function: Any, mean: jax.Array, linear: Any) -> Any:
    return function(KEY, labelled(mean, linear), num_samples=3)


def of_label(mean: jax.Array) -> labels.LabelStats:
    of_z = DiagNormal(jnp.stack([mean, 0.5 * mean]), jnp.zeros((2, 2), mean.dtype))
    return labels.LabelStats(jnp.int32(-1), mean, of_z)


def in_label_vectors(function: Any, mean: jax.Array) -> Any:
    del function  # it makes the guide
    guide, stats = labels.of_vector(diag_normal, 2), of_label(mean)
    prior = labels.LabelPrior(jax.nn.log_softmax(mean), StandardNormal(2, mean.dtype))
    assert guide.sample_and_kls is not None
    z, terms = guide.sample_and_kls(KEY, stats, prior)
    joint = Joint(prior, lambda z: -jnp.sum(jnp.square(z)))
    model = labels.of_latents(stats, diag_normal, joint)
    bounds = labels.bounds_by_label(KEY, model)
    return z, terms, guide.log_prob(stats, z), guide.sample(KEY, stats), bounds, prior.log_prob(z)


def prior_of_labels(mean: jax.Array) -> labels.LabelPrior:
    return labels.LabelPrior(jax.nn.log_softmax(mean), StandardNormal(2, mean.dtype))


calls(
    "labels",
    **dict.fromkeys(("conditional_bound", "labelled_bound"), by(with_label, PAIR, LINEAR)),
    bounds_by_label=by(lambda f, *args: f(KEY, labelled(*args)), PAIR, LINEAR),
    **dict.fromkeys(
        ("log_joint_probs", "log_prob", "log_label_probs"),
        by(with_labels_enumerated, PAIR, LINEAR),
    ),
    sum_over_labels=by(lambda f, x, y: with_gradient(lambda y: f(x, y))(y), VECTOR, POSITIVE),
    classification_term=by(
        lambda f, x: with_gradient(lambda x: f(jnp.int32(1), x, 0.5))(x), VECTOR
    ),
    LabelStats__log_probs=by(lambda f, x: f(of_label(x)), PAIR),
    LabelStats__given=by(lambda f, x: f(of_label(x), jnp.eye(2, dtype=x.dtype)[0]), PAIR),
    LabelPrior__sample=by(lambda f, x: f(prior_of_labels(x), KEY), PAIR),
    LabelPrior__log_prob=by(
        lambda f, x: f(prior_of_labels(x), labels.join(jnp.int32(1), x, 2)), PAIR
    ),
    join=by(lambda f, x: f(jnp.int32(1), x, 2), PAIR),
    split=by(lambda f, x: f(x, 1), PAIR),
    at=by(lambda f, x: f(x, jnp.eye(2, dtype=x.dtype)[0]), PAIR),
    of_vector=by(in_label_vectors, PAIR),
    of_latents=by(in_label_vectors, PAIR),
)

# Bounds


def estimated(bound: Any, stats: Any, linear: Any) -> Any:
    def value(stats: Any) -> jax.Array:
        return bound(KEY, stats, diag_normal, joint_of(linear), num_samples=4)

    return with_gradient(value)(stats)


calls("losses", **{entry: by(estimated, STATS, LINEAR) for entry in BOUNDS})
draws_of_log_weights = by(
    lambda f, stats, linear: f(KEY, stats, diag_normal, joint_of(linear), num_samples=4),
    STATS, LINEAR,
)  # fmt: skip
calls(
    "losses",
    log_weights=draws_of_log_weights,
    log_densities=draws_of_log_weights,
    log_weights_by_route=draws_of_log_weights,
    rate_and_distortion=draws_of_log_weights,
    sample_and_log_prob=by(lambda f, stats: f(KEY, stats, diag_normal), STATS),
    over_samples=by(
        lambda f, x: f(lambda key: x * jax.random.normal(key, (), x.dtype), KEY, 3), ONE
    ),
    evidence_lower_bound=draws_of_log_weights,
    log_prior=by(lambda f, z: f(StandardNormal(2), z), PAIR),
    closed_kl=by(lambda f, stats, linear: f(stats, diag_normal, joint_of(linear)), STATS, LINEAR),
    Joint__log_prior=by(lambda f, linear, z: f(joint_of(linear), z), LINEAR, PAIR),
    with_kl_weight=by(
        lambda f, stats, linear: iwae(
            KEY, stats, *f(diag_normal, joint_of(linear), 0.5), num_samples=3
        ),
        STATS, LINEAR,
    ),
    minibatch_objective=by(lambda f, bounds: f(bounds, 100), VECTOR),
)  # fmt: skip

# Reparameterizations

POINTS = {
    "dirichlet": np.array([0.2, 0.5, 0.3]),
    "pareto": 2.0 + POSITIVE,
    "reciprocal": 1.0 + UNIFORM,
    "uniform": 0.1 * VECTOR + 0.4 * POSITIVE,
    "triangular": 0.1 * VECTOR + 0.4 * POSITIVE,
}
PARAMS: dict[str, Any] = {
    "location": 0.1 * VECTOR, "scale": POSITIVE, "rate": POSITIVE, "low": UNIFORM,
    "high": 2.0 + POSITIVE, "concentration": 2.0 * POSITIVE, "concentration1": 2.0 * POSITIVE,
    "concentration0": 3.0 * POSITIVE, "df": 5.0 * POSITIVE, "df1": 4.0 * POSITIVE,
    "df2": 6.0 * POSITIVE, "mode": UNIFORM, "scale_tril": TRIL,
}  # fmt: skip


def reparameterized(family: Family, params: Any, z: jax.Array, noise: Any = None) -> Any:
    if noise is None:
        noise = family.noise(KEY, z.shape, z.dtype)
    return with_gradient(lambda params: jnp.sum(family.transform(params, noise)))(params), (
        with_gradient(lambda params: family.log_prob(params, z))(params)
    )


for entry, family in reparam.FAMILIES.items():
    params = {name: PARAMS[name] for name in family.params}
    if entry == "elliptical":
        params["df"] = np.array(5.0)
    z = POINTS.get(entry, UNIFORM)
    noise = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64)
        if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        family.noise(KEY, (3,), jnp.float32),
    )  # fmt: skip
    entries("family", entry, partial(reparameterized, family), params, z, noise, tolerance=1e-4)
calls(
    "reparam.family",
    Family__sample=by(
        lambda f, scale: f(reparam.FAMILIES["laplace"], KEY, {"location": scale, "scale": scale}),
        POSITIVE, is_comparable=False,
    ),
    elementwise=by(
        lambda f, x: f((), jax.random.normal, lambda p, e: e, lambda p, z: z).log_prob({}, x),
        VECTOR,
    ),
    open_uniform=by(lambda f, like: f(KEY, (3,), like.dtype), ONE, is_comparable=False),
    positive=(VECTOR,),
    where_inside=by(lambda f, x: f(x > -100.0, x), VECTOR),
)  # fmt: skip
calls(
    "reparam.gamma",
    gamma_noise=by(lambda f, like: f(KEY, (3,), like.dtype).uniform, ONE, is_comparable=False),
    log_gamma=by(lambda f, a, u: f(a, GammaNoise(KEY, u)), POSITIVE, UNIFORM),
)
calls(
    "reparam.gamma_functions",
    log_gamma_ratio=(10.0 * POSITIVE, POSITIVE),
    log_beta=(10.0 * POSITIVE, POSITIVE),
)

# Inference

PRECISION = np.array([[1.0, 0.6], [0.6, 2.0]])
CHAINS = 0.5 * RNG.normal(size=(4, 2))
SAMPLES = RNG.normal(size=(4, 50, 2))
FEW = hmc.Settings(num_leapfrog=3, num_warmup=4)


def log_density_of(precision: jax.Array) -> Callable[[jax.Array], jax.Array]:
    return lambda z: -0.5 * z @ precision @ z


def path_of(precision: jax.Array) -> Path:
    return Path(lambda z: -0.5 * z @ z, log_density_of(precision))


def moved(function: Callable[..., Any], z: jax.Array, precision: jax.Array) -> Any:
    step_size, density = jnp.full((), 0.3, z.dtype), log_density_of(precision)
    return function(KEY, z, step_size, log_density=density, num_leapfrog=3)


calls(
    "inference.hmc",
    transition=by(moved, PAIR, PRECISION),
    move=by(moved, CHAINS, PRECISION),
    sample=by(
        lambda f, z, precision: f(
            KEY, z, log_density_of(precision), num_samples=5, settings=FEW
        ),
        CHAINS, PRECISION, tolerance=1e-3,  # each transition amplifies rounding
    ),
    # Of nearly equal distances from the median, rounding can change the order.
    r_hat=by(lambda f, samples: f(samples), SAMPLES, tolerance=1e-3),
    effective_sample_size=(SAMPLES,),
    bulk_effective_sample_size=(SAMPLES,),
    tail_effective_sample_size=(SAMPLES,),
)  # fmt: skip
BETAS = np.linspace(0.0, 1.0, 4)
calls(
    "inference.annealed_importance_sampling",
    Path__log_density=by(lambda f, p, beta, z: f(path_of(p), beta, z), PRECISION, HALF, PAIR),
    Path__log_ratio=by(lambda f, p, z: f(path_of(p), z), PRECISION, PAIR),
    sigmoid_schedule=by(lambda f: f(5)),
    anneal=by(
        lambda f, z, p: f(KEY, z, path_of(p), BETAS, 0.3 * np.ones(4), num_leapfrog=3),
        CHAINS, PRECISION,
    ),
    pilot=by(lambda f, z, p: f(KEY, z, path_of(p), BETAS, FEW), CHAINS, PRECISION, tolerance=1e-3),
)  # fmt: skip
calls(
    "inference.importance_weights",
    none_of=by(lambda f, like: jax.tree.map(jnp.exp, f(100, like.dtype)), ONE),
    add=by(lambda f, log_w: f(importance_weights.none_of(100, log_w.dtype), log_w), LOG_WEIGHTS),
    of=(LOG_WEIGHTS,),
    effective_sample_size=by(lambda f, log_w: f(importance_weights.of(log_w)), LOG_WEIGHTS),
    log_sum=by(lambda f, log_w: f(importance_weights.of(log_w)), LOG_WEIGHTS),
    log_mean=by(lambda f, log_w: f(importance_weights.of(log_w), 100), LOG_WEIGHTS),
    log_mean_smoothed=by(lambda f, log_w: f(importance_weights.of(log_w), 100), LOG_WEIGHTS),
    pareto_smoothed=(LOG_WEIGHTS,),
    pareto_smoothed_tail=by(lambda f, log_w: f(jnp.sort(log_w)[::-1][:21]), LOG_WEIGHTS),
    pareto_k=by(lambda f, log_w: [f(jnp.sort(log_w)[::-1][:21]), f(log_w[:3])[None][:0]],
                LOG_WEIGHTS),
)  # fmt: skip
calls(
    "inference.lbfgs",
    maximize=by(
        lambda f, p, start: f(lambda z: log_density_of(p)(z - 1.0), start, num_steps=20),
        PRECISION, PAIR, tolerance=1e-3,
    ),
)  # fmt: skip

# Convolutions, whose derivatives on a CPU are those of matrix products


def convolved(function: Callable[..., jax.Array], x: jax.Array, kernel: jax.Array) -> Any:
    return function(x, kernel), jax.grad(lambda k: jnp.sum(jnp.sin(function(x, k))))(kernel)


IMAGE = RNG.normal(size=(5, 4, 2))
KERNEL = RNG.normal(size=(3, 3, 2, 3))
calls(
    "convolutions",
    convolve=by(convolved, IMAGE, KERNEL),
    convolve_transposed=by(convolved, IMAGE, KERNEL),
)

# Proposals and log p(x)


def proposed(function: Callable[..., Any], stats: Any, linear: Any) -> Any:
    stats, guide = function(KEY, stats, diag_normal, joint_of(linear))
    z = guide.sample(KEY, stats)
    return stats, z, guide.log_prob(stats, z)


# The maximum is found to about the square root of a rounding error.
calls(
    "proposals",
    **{name: by(proposed, STATS, LINEAR, tolerance=1e-2) for name in proposals.PROPOSALS},
)

SETTINGS: dict[str, dict[str, Any]] = {
    "importance": {"num_samples": 100, "chunk_size": 40},
    "importance_upper": {"num_samples": 100},
    "ais": {"num_temps": 4, "num_chains": 3, "settings": FEW},
    "reverse_ais": {"num_temps": 4, "num_chains": 3, "settings": FEW},
    "appendix_d": {"num_samples": 8, "num_chains": 4, "settings": FEW},
}


def log_p(name: str, stats: Any, linear: Any, z: jax.Array) -> Any:
    estimator = ESTIMATORS[name]
    own = {"posterior_sample": z} if estimator.needs_posterior_sample else {}
    found = estimator.estimate(KEY, stats, diag_normal, joint_of(linear), **SETTINGS[name], **own)
    # A tail of fewer than five weights has no Pareto k, and r_hat of few samples is not accurate.
    return found.value, found.standard_error, jax.tree.map(jnp.nan_to_num, found.diagnostics)


for entry, estimator in ESTIMATORS.items():
    entries(
        "estimator", entry, partial(log_p, entry), STATS, LINEAR, PAIR, tolerance=1e-3,
        names=[f"marginal.{estimator.estimate.__name__}"],
    )  # fmt: skip
calls(
    "marginal",
    diagnostics_of=by(
        lambda f, samples, one: f(hmc.Chains(samples, one, one, jnp.int32(0))),
        SAMPLES,
        ONE,
        tolerance=1e-3,
    ),
    prior_guide=by(
        lambda f, z: (
            f(StandardNormal(3, z.dtype)).log_prob((), z)
            + f(StandardNormal(3, z.dtype)).sample(KEY, ())
        ),
        VECTOR,
    ),
)

# Diagnostics

MOMENTS = Moments(VECTOR, POSITIVE, UNIFORM)
calls(
    "evaluation.diagnostics",
    inference_gaps=by(
        lambda f, stats, linear, log_prob: f(
            KEY, stats, diag_normal, joint_of(linear), log_prob, num_samples=10, num_fit_samples=10,
            num_steps=10,
        ),
        STATS, LINEAR, -5.0 * ONE, tolerance=1e-2,
    ),
    gradient_moments=by(lambda f, x: f(KEY, lambda key: x * jax.random.normal(key, (), x.dtype), 5),
                        VECTOR),
    gradient_bias=(MOMENTS, MOMENTS),
    posterior_marginals=by(lambda f, stats: f(KEY, stats, diag_normal), STATS),
    marginals=by(lambda f, stats: f(KEY, stats, diag_normal), STATS),
    aggregate_posterior=by(
        lambda f, mean: f(
            KEY, DiagNormal(mean, 0.1 * mean), diag_normal, StandardNormal(3, mean.dtype).log_prob,
            num_data=100.0,
        ),
        X,
    ),
    unit_activity=(X,),
)  # fmt: skip

# Classical models

BETA = families.Beta(2.0 * ONE, 3.0 * ONE)
GAMMA, GAMMA_2 = families.Gamma(2.0 * ONE, 3.0 * ONE), families.Gamma(HALF, ONE)
DIRICHLET = families.Dirichlet(POSITIVE)
GAUSSIAN = families.Normal(VECTOR, COVARIANCE)
GAUSSIAN_2 = families.Normal(0.1 * POSITIVE, np.diag(POSITIVE))
WISHART, WISHART_2 = families.Wishart(5.0 * ONE, COVARIANCE), families.Wishart(4.0 * ONE, np.eye(3))


def with_methods(family: Any, other: Any, at: Any) -> dict[str, Any]:
    """Returns the arguments of all methods of a family of `classical.families`."""
    given = {"log_prob": (family, at), "kl": (family, other)}
    name = type(family).__name__
    return {
        f"{name}__{method}": given.get(method, (family,))
        for method, defined in vars(type(family)).items()
        if inspect.isfunction(defined) and not method.startswith("_")
    }


calls(
    "classical.families",
    **with_methods(BETA, families.Beta(ONE, ONE), HALF),
    **with_methods(GAMMA, GAMMA_2, HALF),
    **with_methods(DIRICHLET, families.Dirichlet(UNIFORM), POINTS["dirichlet"]),
    **with_methods(GAUSSIAN, GAUSSIAN_2, UNIFORM),
    **with_methods(WISHART, WISHART_2, COVARIANCE + np.eye(3)),
)

FLIPS = classical.beta_bernoulli.Flips(6.0 * ONE, 2.0 * ONE)
LOGIT = DiagNormal(HALF, -ONE)
LOGITS = DiagNormal(np.array([0.5]), np.array([-1.0]))


def at_a_draw(guide: Any, stats: Any, prior: Any = None) -> Any:
    z = guide.sample(KEY, stats)
    return z, guide.log_prob(stats, z), guide.kl(stats, prior) if guide.kl and prior else z


calls(
    "classical.beta_bernoulli",
    posterior=(BETA, FLIPS),
    predictive=(BETA,),
    log_evidence=(BETA, FLIPS),
    make_joint=by(
        lambda f, prior, flips, z: [f(prior, flips).log_prior(z), f(prior, flips).log_lik(z)],
        BETA, FLIPS, np.array([0.4]),
    ),
    beta_guide=by(
        lambda f, prior, stats: at_a_draw(f(), stats, classical.beta_bernoulli.HeadsPrior(prior)),
        BETA, PAIR,
    ),
    HeadsPrior__log_prob=by(
        lambda f, prior, z: f(classical.beta_bernoulli.HeadsPrior(prior), z), BETA, np.array([0.4])
    ),
    logit_normal_guide=by(lambda f, stats: at_a_draw(f(), stats), LOGITS),
    fit=by(
        lambda f, start, prior, flips: f(
            KEY, start, classical.beta_bernoulli.beta_guide(),
            classical.beta_bernoulli.make_joint(prior, flips), num_steps=4,
        ),
        PAIR, BETA, FLIPS, tolerance=1e-4,
    ),
    logit_normal_bound=(BETA, FLIPS, LOGIT),
)  # fmt: skip
calls(
    "classical.cholesky",
    Factors__log_det=by(lambda f, a: f(classical.cholesky.factorize(a)), COVARIANCE),
    factorize=(COVARIANCE,),
    solve_lower=(TRIL, VECTOR),
)


def climbed(problem: Any) -> Any:
    return classical.coordinate_ascent.ascend(problem, problem.init(KEY), num_sweeps=2)


def run_on_gaussian(run: Callable[..., Any], target: Any) -> Any:
    problem = classical.correlated_gaussian.coordinate_ascent(target)
    return run(problem, problem.init(KEY))


calls(
    "classical.coordinate_ascent",
    CoordinateAscent__update=by(run_on_gaussian, GAUSSIAN),
    ascend=by(lambda f, target: run_on_gaussian(partial(f, num_sweeps=2), target), GAUSSIAN),
    maximize=by(
        lambda f, target: run_on_gaussian(partial(f, tolerance=1e-3, max_sweeps=3), target),
        GAUSSIAN,
    ),
)
calls(
    "classical.correlated_gaussian",
    coordinate_ascent=by(lambda f, target: climbed(f(target)), GAUSSIAN),
    mean_field_optimum=(GAUSSIAN,),
)
LOG_P, LOG_Q = np.log(POINTS["dirichlet"]), np.log([0.3, 0.3, 0.4])
calls(
    "classical.decomposition",
    Decomposition__residual=by(
        lambda f, p, q: f(classical.decomposition.decompose(p, q)), LOG_P, LOG_Q,
        is_comparable=False,  # it is a rounding error
    ),
    decompose=(LOG_P, LOG_Q),
    decompose_gaussian=by(
        lambda f, evidence, posterior, q: f(evidence, posterior, lambda q: q.entropy(), q),
        ONE, GAUSSIAN, GAUSSIAN_2,
    ),
)  # fmt: skip
MIXTURE = Mixture(np.array([0.4, 0.6]), np.array([-1.0, 1.5]), np.array([0.5, 0.8]))


def kl_by_draws(function: Callable[..., Any], q: Any, p: Any) -> Any:
    return function(KEY, q.sample, q.log_prob, p.log_prob, num_samples=5)


calls(
    "classical.divergences",
    kl_on_grid=(LOG_Q, LOG_P),
    kl_monte_carlo=by(kl_by_draws, NORMAL, DiagNormal(POSITIVE, VECTOR)),
    kl_monte_carlo_controlled=by(kl_by_draws, NORMAL, DiagNormal(POSITIVE, VECTOR)),
    Mixture__log_prob=(MIXTURE, HALF),
    Mixture__moments=(MIXTURE,),
    fit_forward=by(lambda f, target: f(target), MIXTURE, tolerance=1e-4),
    reverse_kl=(MIXTURE, HALF, ONE),
    fit_reverse=by(lambda f, target, starts: f(target, starts), MIXTURE, PAIR, tolerance=1e-2),
    triangle_counterexample=by(lambda f: f(KEY, num_tried=10)),
)
GRID = np.linspace(0.1, 1.0, 8)
CURVE = np.sin(GRID)


def lagrangian(x: jax.Array, y: jax.Array, slope: jax.Array) -> jax.Array:
    return x * y**2 + slope**2


LOG_TABLE = np.log(RNG.dirichlet(np.ones(6)).reshape(2, 3))
calls(
    "classical.functionals",
    functional=by(lambda f, x, y: f(lagrangian, x, y), GRID, CURVE),
    functional_derivative=by(lambda f, x, y: f(lagrangian, x, y), GRID, CURVE, tolerance=1e-3),
    euler_lagrange_residual=by(lambda f, x, y: f(lagrangian, x, y), GRID, CURVE, tolerance=1e-3),
    free_form_update=(LOG_TABLE, LOG_Q),
    free_form_bound=(LOG_TABLE, np.array([0.3, 0.7]), POINTS["dirichlet"]),
)
NORMAL_GAMMA = normal_gamma.NormalGamma(HALF, 2.0 * ONE, 3.0 * ONE, 1.5 * ONE)
calls(
    "classical.gibbs",
    normal_gamma_transition=by(
        lambda f, prior, x, state: f(prior, x)(KEY, state), NORMAL_GAMMA, VECTOR, UNIFORM[:2]
    ),
    sample=by(
        lambda f, prior, x, starts: f(
            KEY, starts, classical.gibbs.normal_gamma_transition(prior, x), num_samples=3,
            num_warmup=1,
        ),
        NORMAL_GAMMA, VECTOR, np.ones((2, 2)),
    ),
)  # fmt: skip
PCA = Params(X[:3, :2], VECTOR, HALF)
IN_TWO = families.Normal(PAIR, PRECISION)


def marginal_at_maximum(function: Callable[..., Any], x: jax.Array) -> Any:
    return classical.linear_gaussian.marginal(function(x, 2))  # W has a sign for each column


calls(
    "classical.linear_gaussian",
    marginal=(PCA,),
    log_prob=(PCA, VECTOR),
    posterior=(PCA, VECTOR),
    bound=(PCA, VECTOR, IN_TWO),
    posteriors=(PCA, X),
    maximum_likelihood=by(marginal_at_maximum, X),
    spherical_maximum=by(marginal_at_maximum, X),
)
of_gaps = by(lambda f, params, x: f(params, masked(x)), PCA, VECTOR)
calls(
    "classical.linear_gaussian_missing",
    posterior=of_gaps, log_prob=of_gaps, conditional=of_gaps,
    em=by(lambda f, x: climbed(f(x.at[1, 1].set(jnp.nan), 2)), X, tolerance=1e-4),
)  # fmt: skip
ROWS, MORE_ROWS = MatrixNormal(X[:, :2], PRECISION), MatrixNormal(X[:3, :2], 0.1 * PRECISION)
calls(
    "classical.linear_gaussian_em",
    em=by(lambda f, x: climbed(f(x, 2)), X, tolerance=1e-4),
    variational_em=by(lambda f, x: climbed(f(x, 2, guide="diagonal")), X, tolerance=1e-4),
    first_weights=by(lambda f, x: f(KEY, x, 2), X),
    variational_bayes=by(
        lambda f, x, bias, noise_var, precision: climbed(
            f(x, 2, bias=bias, noise_var=noise_var, weight_precision=precision)
        ),
        X, VECTOR, HALF, ONE, tolerance=1e-4,
    ),
    expected_log_lik=by(lambda f, *args: f(5, *args), ONE, HALF, ONE),
    less_divergence=(ROWS,),
)  # fmt: skip
REGRESSION_PRIOR = classical.linear_regression.Prior(GAMMA, GAMMA_2)
Y = X @ VECTOR + 0.1 * RNG.normal(size=12)
calls(
    "classical.linear_regression",
    posterior=(X, Y, ONE, HALF),
    log_evidence=(X, Y, ONE, HALF),
    greatest_log_lik=(X, Y),
    coordinate_ascent=by(
        lambda f, *args: climbed(f(*args)), X, Y, REGRESSION_PRIOR, tolerance=1e-4
    ),
    polynomial=by(lambda f, x: f(x, 3), UNIFORM),
    occams_razor=by(
        lambda f, x, y, prior: f(x, y, prior, max_degree=2, num_sweeps=2), GRID, CURVE,
        REGRESSION_PRIOR, tolerance=1e-3,
    ),
)  # fmt: skip
BINARY = classical.logistic_regression.Data(X, BITS)


def log_evidence_bound(function: Callable[..., Any], data: Any, prior_var: jax.Array) -> Any:
    """Returns the bound at a fit, since the fit itself is found to half of the digits."""
    fit = function(data, prior_var, num_steps=20)
    return classical.logistic_regression.bound(data, prior_var, fit)


calls(
    "classical.logistic_regression",
    log_joint=(BINARY, ONE, VECTOR),
    bound=(BINARY, ONE, FULL),
    expected_softplus=(VECTOR, POSITIVE),
    fit=by(log_evidence_bound, BINARY, ONE),
    fit_mean_field=by(log_evidence_bound, BINARY, ONE),
)
calls(
    "classical.matrix_normal",
    MatrixNormal__gram=(ROWS,),
    MatrixNormal__entropy=(ROWS,),
    MatrixNormal__expected_log_prob=(ROWS, np.array([1.0, 2.0]), np.array([0.0, 0.5])),
    MatrixNormal__masked=by(lambda f, rows: f(rows, jnp.array([True, False])), ROWS),
    point_mass=(X,),
    regression=(X, MORE_ROWS, ONE, np.array([1.0, 2.0])),
    expected_square=(X, ROWS, MORE_ROWS),
)
NORMAL_WISHART = normal_wishart.NormalWishart(VECTOR, 2.0 * ONE, WISHART)
NORMAL_WISHART_2 = normal_wishart.NormalWishart(0.5 * VECTOR, ONE, WISHART_2)
calls(
    "classical.normal_gamma",
    NormalGamma__log_prob=(NORMAL_GAMMA, HALF, ONE),
    NormalGamma__variances=(NORMAL_GAMMA,),
    log_joint=(NORMAL_GAMMA, VECTOR, HALF, ONE),
    posterior=(NORMAL_GAMMA, VECTOR),
    log_evidence=(NORMAL_GAMMA, VECTOR),
    log_predictive=(NORMAL_GAMMA, HALF),
    coordinate_ascent=by(lambda f, *args: climbed(f(*args)), NORMAL_GAMMA, VECTOR),
    mean_field_optimum=(NORMAL_GAMMA, VECTOR),
)
DATA_MOMENTS = normal_wishart.Moments(4.0 * ONE, UNIFORM, COVARIANCE + np.eye(3))
calls(
    "classical.normal_wishart",
    NormalWishart__whitener=(NORMAL_WISHART,),
    NormalWishart__expected_log_lik=(NORMAL_WISHART,),
    NormalWishart__log_predictive=(NORMAL_WISHART, X.T),
    NormalWishart__kl=(NORMAL_WISHART, NORMAL_WISHART_2),
    NormalWishart__sample=(NORMAL_WISHART, KEY),
    log_normal=by(lambda f, mean, whitener, x: f(mean, whitener)(x), VECTOR, TRIL, X.T),
    squared_distances=(X.T, VECTOR, TRIL),
    log_det=(TRIL,),
    moments=(X.T, BITS, VECTOR),
    posterior=(NORMAL_WISHART_2, DATA_MOMENTS, VECTOR),
    log_evidence=(NORMAL_WISHART_2, X.T),
)
MIXTURE_PRIOR = classical.mixture_model.Prior(HALF, NORMAL_WISHART_2)
RESPONSIBILITIES = RNG.dirichlet(np.ones(2), size=12).T
CENTRES = X[:2]
HERE = np.array([True, True])


def mixture_of(prior: Any, x: jax.Array, responsibilities: jax.Array) -> Any:
    """Returns q(parameters) of two components."""
    model, centres = classical.mixture_model, x[:2]
    return model.update_parameters(prior, model.statistics(x.T, responsibilities, centres), centres)


def with_mixture(call: Callable[..., Any]) -> By:
    return by(
        lambda f, prior, x, r: call(f, mixture_of(prior, x, r), prior, x, r),
        MIXTURE_PRIOR, X, RESPONSIBILITIES, tolerance=1e-4,
    )  # fmt: skip


calls(
    "classical.mixture_model",
    coordinate_ascent=by(
        lambda f, x, prior: climbed(f(x, prior, 2)), X, MIXTURE_PRIOR, tolerance=1e-4
    ),
    log_joint=with_mixture(lambda f, q, prior, x, r: f(q, HERE)),
    assign=with_mixture(
        lambda f, q, prior, x, r: f(classical.mixture_model.log_joint(q, HERE), x.T)
    ),
    statistics=(X.T, RESPONSIBILITIES, CENTRES),
    update_parameters=with_mixture(lambda f, q, prior, x, r: q),
    kl=with_mixture(lambda f, q, prior, x, r: f(q, prior, HERE)),
    bound=with_mixture(
        lambda f, q, prior, x, r: f(classical.mixture_model.MeanField(r.T, q), x, prior, HERE)
    ),
    at_prior=by(lambda f, prior: f(prior, 2), MIXTURE_PRIOR),
)


def gibbs_sweep(function: Callable[..., Any], prior: Any, x: jax.Array) -> Any:
    state = classical.mixture_gibbs.start(KEY, x, 2)
    return function(prior, x, 2)(KEY, state)


calls(
    "classical.mixture_gibbs",
    start=by(lambda f, x: f(KEY, x, 2), X),
    transition=by(gibbs_sweep, MIXTURE_PRIOR, X, tolerance=1e-4),
    log_joint=by(
        lambda f, prior, x: f(gibbs_sweep(classical.mixture_gibbs.transition, prior, x), x),
        MIXTURE_PRIOR, X, tolerance=1e-4,
    ),
)  # fmt: skip
calls(
    "classical.mixture_seeds",
    responsibilities=by(lambda f, x: f(KEY, x.T, 2, HERE), X),
    k_means_plus_plus=by(lambda f, x: f(KEY, x.T, 2), X),
)


def of_one_run(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], tree)


def start_of(prior: Any, x: jax.Array, responsibilities: jax.Array) -> Any:
    centres = x[:2]
    data = classical.mixture_model.statistics(x.T, responsibilities, centres)
    return classical.mixture_runs.Starts(data, centres, prior)


calls(
    "classical.mixture_hierarchy",
    learn=with_mixture(lambda f, q, prior, x, r: f(q, prior, HERE)),
)
calls(
    "classical.mixture_runs",
    split=by(lambda f, x: f(x, num_clusters=2), X),
    evaluate=with_mixture(
        lambda f, q, prior, x, r: f(
            of_one_run(q), of_one_run(prior), HERE[None],
            classical.mixture_runs.split(x, num_clusters=2),
        )
    ),
    # It is jitted where it is defined, and a trace with the noise of a test would be kept.
    ascend=by(
        lambda f, x, prior, r: f(
            of_one_run(start_of(prior, x, r)), x, HERE[None], jnp.zeros((), x.dtype), num_sweeps=2
        ),
        X, MIXTURE_PRIOR, RESPONSIBILITIES, is_comparable=False,
    ),
    continue_from=with_mixture(
        lambda f, q, prior, x, r: f(
            of_one_run(q), x, of_one_run(prior), HERE[None], jnp.zeros((), x.dtype), num_sweeps=2
        )
    ),
)  # fmt: skip
PCA_PRIOR = classical.principal_components.Prior(ONE, GAMMA, GAMMA_2)


def components(function: Callable[..., Any], x: jax.Array, prior: Any) -> Any:
    problem = classical.principal_components.coordinate_ascent(x, 2, prior)
    return function(problem.init(KEY))


calls(
    "classical.principal_components",
    coordinate_ascent=by(lambda f, x, prior: climbed(f(x, 2, prior)), X, PCA_PRIOR, tolerance=1e-3),
    params_at_mean=by(components, X, PCA_PRIOR, tolerance=1e-4),
    relevance=by(components, X, PCA_PRIOR, tolerance=1e-4),
)
SPEED = np.sqrt(np.linspace(0.0, 4.0, 8))
RADII = 1.0 + 0.1 * RNG.normal(size=8)
calls(
    "classical.variational_problems",
    minimize=by(
        lambda f, p, start: f(lambda z: -log_density_of(p)(z), start, num_steps=3),
        PRECISION, PAIR, tolerance=1e-4,
    ),
    arc_length=(ONE, ONE, HALF),
    shortest_path=by(lambda f, x, y: f(x, y, num_steps=4), GRID, CURVE, tolerance=1e-4),
    slide_time=by(lambda f, x, speed: f(x, speed, 9.81), GRID, SPEED),
    brachistochrone=by(
        lambda f, across, down: f(across, down, num_pieces=8, num_steps=10), ONE, HALF,
        tolerance=1e-3,
    ),
    Cycloid__time=by(
        lambda f, a, b: f(classical.variational_problems.Cycloid(a, b)), ONE, HALF
    ),
    cycloid=(ONE, HALF),
    perimeter=(RADII,),
    area=(RADII,),
    largest_area=by(
        lambda f, start, length: f(start, length, num_steps=4), RADII, ONE, tolerance=1e-3
    ),
)  # fmt: skip

# Training algorithms, on a model that is no network

OPTIONS: dict[str, dict[str, Any]] = {
    "aevb": {"bound": BOUNDS["iwae"], "num_samples": 2},
    "full_vb": {"bound": BOUNDS["sgvb_b"], "num_data": 12, "weight_noise": "datapoint"},
    "mcem": {"num_data": 12, "num_leapfrog": 3, "num_updates": 2},
}


def in_dtype_of(x: jax.Array, tree: Any) -> Any:
    def of(leaf: jax.Array) -> jax.Array:
        return leaf.astype(x.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(of, tree)


def algorithm_of(name: str) -> tuple[vae.VAE, Any]:
    model = linear_vae(3, 2, encoder="diagonal" if ALGORITHMS[name].has_encoder else "none")
    optimizer = optimizers.make("adagrad", 0.1)
    return model, ALGORITHMS[name].make(model, optimizer, **OPTIONS.get(name, {}))


def updated(name: str, x: jax.Array) -> Any:
    _, algorithm = algorithm_of(name)
    state = in_dtype_of(x, algorithm.init(KEY))
    batch = Batch(x, jnp.arange(len(x), dtype=jnp.int32))
    norms = algorithm.norms(KEY, state, batch) if algorithm.norms else {}
    return algorithm.update(KEY, state, batch), norms


for entry in ALGORITHMS:
    entries(
        "algorithm", entry, partial(updated, entry), X, tolerance=1e-3,
        names=[f"algorithms.{entry}.make", *(f"algorithms.gradient_ascent.{name}" for name in
               ("over_datapoints", "ascend", "algorithm", "algorithm_at", "norms_of_step"))],
    )  # fmt: skip


def doubled_and_averaged(function: Callable[..., Any], x: jax.Array) -> Any:
    def update(key: jax.Array, state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        return state._replace(step=state.step + 1, params=2 * state.params), {}

    plain = Algorithm(lambda key: TrainState(jnp.int32(0), x, (), ()), update)
    algorithm = function(plain, 0.9)
    state, batch = algorithm.init(KEY), Batch(x, x)
    for _ in range(3):
        state, _ = algorithm.update(KEY, state, batch)
    return algorithm.vae_params(state.params)


calls("algorithms.averaging", average_params=by(doubled_and_averaged, X))


def of_theta(function: Callable[..., Any], x: jax.Array) -> Any:
    model, algorithm = algorithm_of("full_vb")
    return function(model, in_dtype_of(x, algorithm.init(KEY).params), x)


calls(
    "algorithms.full_vb",
    draw=by(lambda f, x: of_theta(lambda model, params, x: f(KEY, params), x), X),
    theta_of=by(lambda f, x: of_theta(lambda m, params, x: f(KEY, KEY, params, "minibatch"), x), X),
    kl_per_array=by(lambda f, x: of_theta(lambda model, params, x: f(params, 2.0), x), X),
    kl_to_prior=by(lambda f, x: of_theta(lambda model, params, x: f(params, 2.0), x), X),
    with_theta_as_latents=by(
        lambda f, x: of_theta(lambda m, params, x: f(m, params).sample(KEY, params), x), X
    ),
    log_evidence_bound=by(
        lambda f, x: of_theta(
            lambda model, params, x: f(KEY, model, params, x, num_samples=2, stds=1.0), x
        ),
        X, tolerance=1e-3,
    ),
)  # fmt: skip

WITHOUT_FLOATS = {
    "discrete.one_hot": "words",
    "discrete.log_simplex": "words",
    "discrete.rows": "ints",
    "discrete.require_temperature": "a check",
    "inference.importance_weights.tail_size": "an int",
    "inference.importance_weights.pareto_k_threshold": "a Python float",
    "evaluation.diagnostics.active_units": "bools",
    "marginal.is_upper_bound": "a bool",
    "classical.beta_bernoulli.count": "the counts of its argument, which must be concrete",
    "classical.linear_gaussian.require_num_latents": "a check",
    "classical.observations.require": "a check",
    "missing.shape_with_mask": "ints",
    "classical.observations.require_binary": "a check",
    "classical.observations.require_equal_lengths": "a check",
    "algorithms.skip_nonfinite.skip_bad_steps": "those of its algorithm, and a 0 or 1 in float32",
    "algorithms.skip_nonfinite.num_skipped": "an int",
    "algorithms.skip_nonfinite.is_finite": "a bool",
    "algorithms.full_vb.prior_stds": "Python floats",
    "algorithms.averaging.evaluated": "a part of its argument",
    "algorithms.averaging.trained": "a part of its argument",
    "algorithms.averaging.starting_at": "its argument",
}
"""Public functions without a case, and what they return."""

CONCRETE = "needs concrete data, is jitted inside, and has tests in both dtypes of its own"
WITHOUT_FLOATS |= dict.fromkeys(
    (
        *(f"classical.gaussian_mixture.{name}" for name in
          ("fit", "scikit_learn_prior", "predict_proba", "predict", "score_samples")),
        *(f"classical.mixture_data.{name}" for name in
          ("points", "make_prior", "of_points", "first_guess", "covariance", "resolution", "cast")),
        *(f"classical.mixture_basis.{name}" for name in
          ("Basis.of", "Basis.log_det", "Basis.prior", "Basis.parameters", "Basis.prior_of_x",
           "of_prior")),
        *(f"classical.mixture_search.{name}" for name in ("problem_of", "merged", "ascend")),
    ),
    CONCRETE,
)  # fmt: skip
WITHOUT_FLOATS |= dict.fromkeys(
    (
        f"classical.mixture_merges.{name}"
        for name in ("clusters_of", "union", "log_evidence", "log_gammas_of", "learn", "merge")
    ),
    "NumPy's float64",
)
