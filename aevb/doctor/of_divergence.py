"""The probable cause of a non-finite step, from the problem found and the log before it."""

from collections.abc import Mapping, Sequence
from typing import Any

SMALLER_STEP = "try a smaller config.optimizer.step_size"
# Beyond these log variances one step of the usual size can leave the range of float32.
NARROW, WIDE = -8.0, 8.0
# times the median of the log
GROWTH = 10.0


def probable_cause(problem: str, records: Sequence[Mapping[str, Any]]) -> str:
    """Returns what probably made a step non-finite, and what to change, in one clause.

    Args:
        problem: the first non-finite quantity: "the minibatch is not finite", ...
        records: the log until then.
    """
    if "minibatch" in problem:
        return "the data hold values that are not finite: leave out or replace them"
    last = records[-1] if records else {}
    for side, of in (("likelihood", "p(x|z)"), ("posterior", "q(z|x)")):
        low, high = (last.get(f"train_{side}_log_var_{end}", 0.0) for end in ("min", "max"))
        if low < NARROW or high > WIDE:
            value = low if low < NARROW else high
            return (
                f"a variance of {of} had run away (its log was {value:.1f} at the last "
                "evaluation): bound it with config.model.log_var_limit=6"
            )
    norms = [record["gradient_norm"] for record in records if "gradient_norm" in record]
    if len(norms) > 1 and norms[-1] > GROWTH * (usual := sorted(norms)[len(norms) // 2]):
        return (
            f"the gradient had grown (its norm was {norms[-1]:.3g} at the last evaluation, and "
            f"{usual:.3g} in the middle of the log): clip it with "
            "config.optimizer.clip=global_norm"
        )
    return SMALLER_STEP
