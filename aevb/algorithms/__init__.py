"""Training algorithms: each file's `make` returns an `Algorithm`, a pair of pure functions."""

from aevb.algorithms import aevb, full_vb, mcem, reweighted_wake_sleep, wake_sleep
from aevb.algorithms.base import AlgorithmEntry

ALGORITHMS = {
    "aevb": AlgorithmEntry(aevb.make, can_pad=True),
    "full_vb": AlgorithmEntry(
        full_vb.make,
        has_own_prior=True,
        draw_params=full_vb.draw,
        with_theta_as_latents=full_vb.with_theta_as_latents,
    ),
    "wake_sleep": AlgorithmEntry(
        wake_sleep.make, trains_prior_by_encoder=False, trains_on_samples=True, can_pad=True
    ),
    "reweighted_wake_sleep": AlgorithmEntry(
        reweighted_wake_sleep.make, trains_prior_by_encoder=False, can_pad=True
    ),
    "mcem": AlgorithmEntry(mcem.make, has_encoder=False, trains_prior_by_encoder=False),
}
"""The algorithms by name.

`make` receives the fields of config.algorithm that it has arguments for.
"""
