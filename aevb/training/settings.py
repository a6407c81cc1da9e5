"""The settings of training, and the steps at which it evaluates."""

import math
from typing import NamedTuple


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
    num_devices: int = 0
    wandb: str = "off"

    @property
    def num_steps(self) -> int:
        return self.num_examples // self.batch_size


def evaluation_steps(settings: Settings) -> list[int]:
    """Returns the steps of the evaluations, evenly spaced in log(examples), and the last step."""
    num_steps = settings.num_steps
    ratio = num_steps * settings.batch_size / settings.first_eval
    count = max(0, math.ceil(settings.evals_per_decade * math.log10(ratio)))
    points = [
        settings.first_eval * 10 ** (number / settings.evals_per_decade) for number in range(count)
    ]
    steps = {max(1, round(point / settings.batch_size)) for point in points}
    return sorted({step for step in steps if step < num_steps} | {num_steps})
