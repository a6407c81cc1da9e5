"""Trains or evaluates one kind of model by aevb: a contender of kinds_speed.py.

The experiment is built from a config, as `experiments/run.py` does, and `aevb.training.loop`
advances it. The protocol is that of worker.py; an "epoch" is the work of a round.
--plain-convolutions: the gradient of convolutions is XLA's own on a CPU too.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import kinds
import numpy as np
from jax import Array, lax

from aevb import losses, marginal
from aevb.config import Values, default_config, validate, with_values
from aevb.data import Dataset
from aevb.evaluation import elbo
from aevb.experiment import build
from aevb.networks import convolutional
from aevb.training import loop
from aevb.types import PyTree
from aevb.vae import VAE

LAYOUT = ("NHWC", "HWIO", "NHWC")
OPTIONS = {
    "adamw": {"weight_decay": kinds.DECOUPLED_DECAY},
    "rmsprop": {"decay": kinds.RMSPROP_DECAY, "eps_in_sqrt": False},  # as in PyTorch
}


def config_of(kind: kinds.Kind, data_dir: Path) -> Values:
    is_mnist = kind.data == "mnist"
    values = {
        "data.name": "binarized_mnist" if is_mnist else "frey_faces",
        "data.manual_dir": str(data_dir),
        "data.num_valid": 0,  # so that the training data are the peers'
        "model.network": kind.network,
        "model.hidden": kind.hidden,
        "model.num_latents": kind.num_latents,
        "model.likelihood": "bernoulli" if is_mnist else "gaussian_unit_mean",
        "model.init": "fan_in",
        "algorithm.name": "full_vb" if kind.has_random_weights else "aevb",
        "algorithm.bound": kind.bound,
        "algorithm.num_samples": kind.num_samples,
        "algorithm.param_prior_std": 1.0 if kind.has_prior or kind.has_random_weights else 0.0,
        "optimizer.name": kind.optimizer,
        "optimizer.step_size": kind.step_size,
        "optimizer.options": OPTIONS.get(kind.optimizer, {}),
        "train.batch_size": kind.batch_size,
    }
    return validate(with_values(default_config(), values))


def use_plain_convolutions() -> None:
    """Replaces the package's convolutions by XLA's, whose gradients are XLA's too."""

    def convolve(x: Array, kernel: Array, *, stride: int) -> Array:
        strides = (stride, stride)
        return lax.conv_general_dilated(x[None], kernel, strides, "SAME", dimension_numbers=LAYOUT)[
            0
        ]

    def convolve_transposed(x: Array, kernel: Array, *, stride: int) -> Array:
        strides = (stride, stride)
        return lax.conv_transpose(x[None], kernel, strides, "SAME", dimension_numbers=LAYOUT)[0]

    convolutional.convolve, convolutional.convolve_transposed = convolve, convolve_transposed


def make_mean_bound(
    kind: kinds.Kind, vae: VAE, dataset: Dataset, number: int
) -> Callable[[PyTree], float]:
    """Returns params -> the mean of the kind's bound of `number` test images, in nats."""
    score = elbo.make_score(vae, dataset.preprocess)
    if kind.bound == "iwae":

        def iwae(key: Array, params: PyTree, x: Array) -> Array:
            stats, joint = vae.encode(params, x), vae.joint(params, x)
            return losses.iwae(key, stats, vae.guide, joint, num_samples=kind.num_samples)

        score = elbo.scorer(elbo.with_fixed_noise(iwae, dataset.preprocess))
    return lambda params: score(params, dataset.test, np.arange(number)).mean


def make_mean_log_p(
    kind: kinds.Kind, vae: VAE, dataset: Dataset, number: int
) -> Callable[[PyTree], float]:
    """Returns params -> the mean estimate of log p(x) of `number` test images, in nats."""
    del kind
    index = np.arange(number) * (len(dataset.test) // number)
    images = elbo.fixed_inputs(dataset.preprocess, index, dataset.test[index])

    def log_p(key: Array, params: PyTree, x: Array) -> Array:
        stats, joint = vae.encode(params, x), vae.joint(params, x)
        return marginal.importance_sampling(
            key, stats, vae.guide, joint, num_samples=kinds.NUM_IMPORTANCE_SAMPLES
        ).value

    estimate = jax.jit(jax.vmap(log_p, in_axes=(0, None, 0)))
    keys = jax.random.split(jax.random.key(0), number)
    return lambda params: float(jnp.mean(estimate(keys, params, images)))


def main() -> None:
    parser = kinds.argument_parser(__doc__)
    parser.add_argument("--plain-convolutions", action="store_true")
    args = parser.parse_args()
    if args.plain_convolutions:
        use_plain_convolutions()
    kind = kinds.KINDS[args.kind]
    dataset, vae, algorithm = build(config_of(kind, args.data_dir))
    keys = loop.run_keys(jax.random.key(args.seed))
    advance = loop.make_advance(algorithm, dataset.preprocess, batch_size=kind.batch_size)
    data, state = jnp.asarray(dataset.train), jax.jit(algorithm.init)(keys.init)
    order = loop.no_order(keys.loop, data)

    def train(num_steps: int) -> int:
        nonlocal state, order  # the order of an epoch is kept across rounds, as across pauses
        state, order, metrics = advance(keys.loop, data, state, order, state.step + num_steps)
        float(metrics["objective"])  # waits for the device
        return num_steps * kind.batch_size

    number = args.per_round if kind.evaluation else len(dataset.test)
    make = make_mean_log_p if kind.evaluation == "log_p" else make_mean_bound
    mean_of = make(kind, vae, dataset, number)
    kinds.serve(
        kind,
        args.per_round,
        ("aevb", "jax"),
        train,
        lambda: mean_of(algorithm.vae_params(state.params)),
        device=jax.devices()[0].device_kind,
    )


if __name__ == "__main__":
    main()
