"""What the study of the paper trains: sweeps with their measurements, and rows of seeds."""

import argparse
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .measurements import (
    Run,
    Scale,
    appendix_d_along_training,
    latents_in_use,
    posterior_over_theta,
    predictions,
)

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results" / "paper"
PICTURES = ROOT / "docs" / "paper"
REPRODUCED = ROOT / "experiments" / "results" / "reproduce.json"


class Study(NamedTuple):
    """A sweep, and the measurement that is made on each of its runs."""

    config: str  # a file of experiments/
    flags: tuple[str, ...] = ()  # of run.py, in addition to --sweep
    quick: tuple[str, ...] = ()  # added by --quick
    measure: Callable[[Run, Scale], dict[str, Any]] | None = None  # further entries of a run
    num_seeds: int | None = None  # None for the seeds of its config

    @property
    def seeds(self) -> tuple[str, ...]:
        """The flag of run.py that sets the seeds, if they are not those of its config."""
        if self.num_seeds is None:
            return ()
        return (f"--axis=seed={','.join(map(str, range(self.num_seeds)))}",)


STEP = "--config.optimizer.step_size=0.02"
SHORT = ("--config.train.num_examples=20000", STEP, "--axis=seed=0")
FEW = (*SHORT, "--axis=data.num_train=1000")
LONGER = ("--config.train.num_examples=50000", STEP, "--axis=seed=0")
MILLION = "--config.train.num_examples=1000000"
TWO_SPLITS = "--config.data.num_valid=0"  # nothing is chosen by the test bound
FULL_VB = ("--axis=algorithm.name=full_vb",)
MAP = (MILLION, "--axis=algorithm.name=aevb")  # its validation bound is highest much earlier
FIRST_STD = "--config.algorithm.options.first_std=0.1"  # the best of full_vb_options_mnist
MANY_SEEDS = 10  # where a run takes less than two minutes on two CPU cores


def silent(config: str, *flags: str) -> Study:
    """Returns the study of a choice that the paper does not state, or states without a figure."""
    return Study(config, (MILLION, TWO_SPLITS, *flags), quick=SHORT, num_seeds=MANY_SEEDS)


LONG_STEPS = {  # of figure 2's longest runs: the step sizes that its rule chose, held by a test
    ("figure_2_mnist", 20, "aevb"): 0.01,
    ("figure_2_mnist", 20, "wake_sleep"): 0.02,
    ("figure_2_frey", 2, "aevb"): 0.01,
    ("figure_2_frey", 2, "wake_sleep"): 0.01,
    ("figure_2_frey", 20, "aevb"): 0.01,
    ("figure_2_frey", 20, "wake_sleep"): 0.02,
}


def long_name(study: str, num_latents: int, algorithm: str) -> str:
    """Returns the name of the study that is a panel's longest run of an algorithm."""
    return study.replace("figure_2", "figure_2_long") + f"_{num_latents}_{algorithm}"


def longest(config: str, num_latents: int, algorithm: str, step_size: float) -> Study:
    """Returns one run of figure 2 with 10^8 examples, where the paper's axis ends, and one seed.

    Its step size is not chosen anew, because the choice could differ on another machine.
    """
    return Study(
        config,
        (
            "--config.train.num_examples=100000000",
            f"--config.optimizer.step_size={step_size}",
            f"--axis=model.num_latents={num_latents}",
            f"--axis=algorithm.name={algorithm}",
            "--axis=seed=0",
        ),
        quick=("--config.train.num_examples=20000",),
    )


def full_vb_options(config: str) -> Study:
    """Returns full variational Bayes on 100 datapoints, by its prior, first variance and warm-up.

    One seed and one step size: it shows what these options do, and which of them the runs of five
    seeds take.
    """
    return Study(
        config,
        (
            MILLION,
            "--config.optimizer.step_size=0.003",
            "--axis=data.num_train=100",
            "--axis=algorithm.name=full_vb",
            "--axis=algorithm.options.prior_scale=constant,fan_in",
            "--axis=algorithm.options.first_std=0.01,0.1",
            "--axis=algorithm.options.kl_warm_up_steps=0,5000",
            "--axis=seed=0",
        ),
        quick=("--config.train.num_examples=20000", "--axis=algorithm.options.first_std=0.01"),
        measure=posterior_over_theta,
    )


STUDIES: Mapping[str, Study] = {
    "figure_2_mnist": Study("figure_2_mnist", quick=(*LONGER, "--axis=model.num_latents=3,20")),
    # The paper sees no overfitting. These runs are longer, at the step size that is best at the
    # end.
    "superfluous": Study(
        "figure_2_mnist",
        ("--config.train.num_examples=30000000", STEP, "--axis=model.num_latents=20,200",
         "--axis=algorithm.name=aevb"),
        quick=(*LONGER, "--axis=model.num_latents=20,200"),
        measure=latents_in_use,
    ),
    "figure_2_frey": Study("figure_2_frey", quick=(*LONGER, "--axis=model.num_latents=2,20")),
    "figure_3": Study(
        "figure_3", ("--axis=algorithm.name=aevb,wake_sleep",), FEW, appendix_d_along_training
    ),
    "figure_3_mcem": Study(
        "figure_3", ("--axis=algorithm.name=mcem",), FEW, appendix_d_along_training
    ),
    "figure_5": Study("figure_5", quick=LONGER),
    "full_vb_mnist": Study("full_vb_mnist", (*FULL_VB, FIRST_STD), SHORT, predictions),
    "full_vb_mnist_map": Study("full_vb_mnist", MAP, SHORT, predictions),
    "full_vb_frey": Study(
        "full_vb_frey", (*FULL_VB, "--axis=data.num_train=100"), SHORT, predictions
    ),
    # At the step size of 0.003 the objective of these runs had not converged at 5 * 10^6 examples.
    "full_vb_frey_1000": Study(
        "full_vb_frey",
        ("--config.train.num_examples=10000000", "--config.optimizer.step_size=0.001",
         "--axis=data.num_train=1000", *FULL_VB),
        SHORT,
        predictions,
    ),
    "full_vb_frey_map": Study("full_vb_frey", MAP, SHORT, predictions),
    "full_vb_options_mnist": full_vb_options("full_vb_mnist"),
    "full_vb_options_frey": full_vb_options("full_vb_frey"),
    "silent_binarization": silent(
        "mnist", STEP, "--axis=model.num_latents=20", "--axis=data.binarization=dynamic,fixed"
    ),
    "silent_split": silent(
        "figure_4_frey", STEP, "--axis=model.num_latents=2", "--axis=data.split=random,blocked"
    ),
    "silent_init_mnist": silent(
        "binarized_mnist", "--axis=model.num_latents=20", "--axis=model.init_std=0.1,0.01"
    ),
    "silent_init_frey": silent(
        "figure_4_frey", "--axis=model.num_latents=2", "--axis=model.init_std=0.1,0.01",
        "--config.data.split=random",
    ),
    "silent_samples": silent(
        "binarized_mnist", STEP, "--axis=model.num_latents=20",
        "--axis=algorithm.num_samples=1,10",
    ),
    "silent_biases": silent(
        "binarized_mnist", STEP, "--axis=model.num_latents=20",
        "--axis=algorithm.prior_on_biases=True,False",
    ),
    **{long_name(*panel): longest(*panel, step) for panel, step in LONG_STEPS.items()},
}  # fmt: skip
LONGEST = {long_name(*panel) for panel in LONG_STEPS}  # an hour or more each


class Row(NamedTuple):
    """One setting, trained with each seed."""

    title: str
    experiment: str  # a file of experiments/
    overrides: dict[str, Any]
    num_seeds: int = 3


WHOLE = {"data.num_valid": 0}  # without validation data: nothing is chosen
FREY = {**WHOLE, "data.split": "random", "train.num_examples": 3_000_000}

ROWS = {
    "frey_blocked_2": Row("Frey faces, blocked split, Z = 2", "figure_4_frey", WHOLE),
    "frey_random_2": Row("Frey faces, random split, Z = 2", "figure_4_frey", FREY, MANY_SEEDS),
    "frey_random_20": Row(
        "Frey faces, random split, Z = 20",
        "figure_4_frey",
        {**FREY, "model.num_latents": 20},
        MANY_SEEDS,
    ),
    "binarized_mnist_20": Row("binarized MNIST, Z = 20", "binarized_mnist", {}),
    "binarized_mnist_60000_20": Row(
        "binarized MNIST, Z = 20, the validation images train too",
        "binarized_mnist",
        {**WHOLE, "data.split": "train+validation"},
    ),
    # The step is too long for these models: the bound is poor, and the test is that it is finite.
    "frey_step_0.1": Row(
        "Frey faces, random split, Z = 2, step 0.1",
        "figure_4_frey",
        {**FREY, "optimizer.step_size": 0.1},
        num_seeds=MANY_SEEDS,
    ),
    "binarized_mnist_step_0.1": Row(
        "binarized MNIST, Z = 20, step 0.1",
        "binarized_mnist",
        {"optimizer.step_size": 0.1, "train.num_examples": 1_000_000},
        num_seeds=MANY_SEEDS,
    ),
}

OWN_ROWS = {"make_run": Row("`make run`", "frey_faces", {})}  # settings that are not the paper's


def run_py(config: str, folder: Path, flags: Iterable[str]) -> list[str]:
    """Returns the command that trains a config of experiments/ in a folder."""
    experiments = ROOT / "experiments"
    files = (f"--config={experiments / config}.py", f"--workdir={folder}")
    return [sys.executable, str(experiments / "run.py"), *files, *flags]


def argument_parser(
    description: str | None, flag: str, names: Iterable[str], *, by_name: Container[str] = ()
) -> Any:
    """Returns a parser with a flag that selects some of the names, and flags for every run.

    Args:
        by_name: the names that the default leaves out.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = list(names)

    def some(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(known):
            words = f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}"
            raise argparse.ArgumentTypeError(words)
        return text.split(",")

    words = (
        f"all but {', '.join(left_out)}"
        if (left_out := [n for n in known if n in by_name])
        else "all"
    )
    parser.add_argument(
        flag,
        type=some,
        default=[name for name in known if name not in by_name],
        help=f"comma-separated (default: {words})",
    )
    parser.add_argument("--runs", type=Path, help="the folder of the runs")
    parser.add_argument("extra", nargs="*", metavar="-- FLAGS", help="for every run.py")
    return parser
