"""A sweep of four small runs, and runs of any configs as a stack."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aevb.config import Config, Values, default_config
from aevb.sweeps.devices import DeviceTrainer, Machine
from aevb.sweeps.grid import Axes, Member
from aevb.training.stacked_runs import Stack


def small() -> Config:
    config = default_config()
    config.data.name, config.data.split = "synthetic", ""
    config.data.synthetic_num_train = 200
    config.data.synthetic_num_test = 50
    config.model.likelihood, config.model.hidden = "gaussian", (6,)
    config.train.num_examples, config.train.first_eval = 600, 200
    config.train.evals_per_decade = 3
    return config


AXES: Axes = {"model.num_latents": (1, 3), "seed": (0, 1)}


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def bounds(folder: Path) -> dict[str, float]:
    """Returns the test bound of each run, by its folder's name."""
    return {
        str(summary.parent.relative_to(folder)): read(summary)["test_bound"]
        for summary in sorted(folder.rglob("summary.json"))
    }


def stack_of(configs: Iterable[Values]) -> Stack:
    """Returns runs as the program in which a sweep would train them."""
    members = tuple(Member("", {}, values) for values in configs)
    return DeviceTrainer(Path(), Machine("stack", len(members))).as_stack(members)
