"""The settings of training, and the steps at which it evaluates."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Settings(NamedTuple):
    """The config's train.* fields, which are documented in the config."""

    num_examples: int
    batch_size: int
    first_eval: int
    evals_per_decade: int
    eval_examples: int
    checkpoint_seconds: float
    keep_checkpoints: bool
    tensorboard: bool
    eval_every: int = 0
    patience: int = 0
    num_devices: int = 0
    wandb: str = "off"

    @property
    def num_steps(self) -> int:
        return self.num_examples // self.batch_size


def is_out_of_patience(records: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Returns whether the last `patience` evaluations have no new best validation bound.

    Evaluations before the KL has its whole weight do not count.

    Args:
        records: the log of a run.
        patience: 0 for any number.
    """
    bounds = [
        record["valid_bound"]
        for record in records
        if "valid_bound" in record and record.get("recent_kl_weight", 1.0) >= 1.0
    ]
    if not patience or not bounds:
        return False
    since_best = bounds[::-1].index(max(bounds))
    return since_best >= patience


def evaluation_steps(settings: Settings) -> list[int]:
    """Returns the steps of the evaluations, and the last step.

    They are evenly spaced in the examples if `eval_every` is given, else in their logarithm.
    """
    num_steps = settings.num_steps
    if settings.eval_every:
        every = max(1, round(settings.eval_every / settings.batch_size))
        return [*range(every, num_steps, every), num_steps]
    ratio = num_steps * settings.batch_size / settings.first_eval
    count = max(0, math.ceil(settings.evals_per_decade * math.log10(ratio)))
    points = [
        settings.first_eval * 10 ** (number / settings.evals_per_decade) for number in range(count)
    ]
    steps = {max(1, round(point / settings.batch_size)) for point in points}
    return sorted({step for step in steps if step < num_steps} | {num_steps})
