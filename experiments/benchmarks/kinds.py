"""The kinds of training and evaluation that kinds_speed.py measures, and its workers' flags.

The module imports only the standard library, because workers in the peers' environment use it too.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import worker

TRAINED_STEPS = 400  # before an evaluation is measured
NUM_IMPORTANCE_SAMPLES = 1000  # K of log p(x)
EVALUATED_AT_ONCE = 500  # test images of one call, in every contender
FIRST_STD = 0.01  # of a weight with a distribution, before training
DECOUPLED_DECAY = 1e-4  # of adamw
RMSPROP_DECAY = 0.9


class Kind(NamedTuple):
    """A model, its bound and its optimizer, and the work of one round.

    The latents are Gaussian, the prior is N(0, I). Weights have the variance 1 / fan-in and biases
    are 0 at the start. An mlp has tanh units, a conv network 3 x 3 kernels and tanh-approximated
    GELU units. A gated_conv network is that of `aevb.networks.gated_convolutional`.
    """

    title: str
    per_round: int  # training steps; images of an evaluation
    num_latents: int = 20  # Z
    hidden: tuple[int, ...] = (500,)  # the channels of conv
    batch_size: int = 100  # M
    network: str = "mlp"
    data: str = "mnist"
    bound: str = "sgvb_b"
    num_samples: int = 1  # K of the bound
    optimizer: str = "adam"
    step_size: float = 0.001
    has_prior: bool = True  # N(0, I) on all parameters, as weight decay 1 / N inside the gradient
    has_random_weights: bool = False  # q(theta) of the decoder, by the local reparameterization
    evaluation: str = ""  # bound or log_p; empty for training

    @property
    def sizes(self) -> worker.Sizes:
        return worker.SIZES[self.data]

    @property
    def weight_decay(self) -> float:
        return 1 / self.sizes.num_train if self.has_prior else 0.0


def _iwae(num_samples: int, steps: int) -> Kind:
    return Kind(
        f"784-200-200-50, IWAE with K = {num_samples}", steps, num_latents=50, hidden=(200, 200),
        batch_size=20, bound="iwae", num_samples=num_samples,
    )  # fmt: skip


_CONV = Kind("convolutions with 32 and 64 channels", 50, hidden=(32, 64), network="conv")
KINDS = {
    "conv": _CONV,
    "gated_conv": Kind(
        "gated convolutions (van den Berg et al. 2018)", 5, hidden=(32, 32, 64, 64, 64, 256),
        network="gated_conv",
    ),
    "iwae_1": _iwae(1, 1500),
    "iwae_5": _iwae(5, 500),
    "iwae_50": _iwae(50, 60),
    "adam": Kind("784-500-20, Adam", 500, optimizer="adam"),
    "adamw": Kind("784-500-20, AdamW", 500, optimizer="adamw", has_prior=False),
    "rmsprop": Kind("784-500-20, RMSprop", 500, optimizer="rmsprop"),
    "adamax": Kind("784-500-20, Adamax", 500, optimizer="adamax"),
    "adam_frey": Kind(
        "Frey faces 560-200-2, Adam", 900, num_latents=2, hidden=(200,), data="frey"
    ),
    "full_vb": Kind(
        "784-500-20, full variational Bayes", 250, has_prior=False, has_random_weights=True
    ),
    "conv_bound": _CONV._replace(
        title="convolutions: bound of test images", per_round=10_000, evaluation="bound"
    ),
    "conv_log_p": _CONV._replace(
        title="convolutions: log p(x), K = 1,000", per_round=10, evaluation="log_p"
    ),
}  # fmt: skip


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of the flags that kinds_speed.py gives to every worker."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=list(KINDS), required=True)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the datasets")
    parser.add_argument("--per-round", type=int, required=True, help="steps, or images")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def serve(
    kind: Kind,
    per_round: int,
    packages: Sequence[str],
    train: Callable[[int], int],
    evaluate: Callable[[], float],
    **more: Any,
) -> None:
    """Serves rounds of a kind by the protocol of worker.py, in which an "epoch" is a round.

    Args:
        kind: what is measured; the model of an evaluation is trained first.
        per_round: the steps, or the images, of a round.
        packages: the packages that do the work.
        train: takes a number of steps, waits, and returns the number of examples.
        evaluate: returns the mean bound or log p(x) of the images that the kind evaluates, all test
            images after training.
        more: further arguments of `worker.serve_training`.
    """

    def measured_evaluation() -> int:
        evaluate()
        return per_round

    if kind.evaluation:
        train(TRAINED_STEPS)
    run = measured_evaluation if kind.evaluation else lambda: train(per_round)
    worker.serve_training(packages, run, evaluate, **more)


def gated_channels(kind: Kind) -> list[tuple[int, int, int]]:
    """Returns the layers of a gated decoder, without its gates: (stride, channels in, out).

    The first layer is left out; its channels are those that the second one takes.
    """
    channels = kind.hidden[:-1]
    number = len(channels)
    of_size = [channels[max(2 * halvings - 1, 0)] for halvings in range(number // 2 + 1)]
    num_in = of_size[-1]
    layers = []
    for layer in reversed(range(number)):
        layers.append((1 + layer % 2, num_in, of_size[layer // 2]))
        num_in = of_size[layer // 2]
    return layers


def halved(length: int, times: int) -> int:
    """Returns the rows or columns of an image after some layers of conv, each rounded up."""
    return math.ceil(length / 2**times)
