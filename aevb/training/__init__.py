"""The training loop, for one run or several stacked runs: steps, evaluation, checkpoints."""
