"""Families of approximate posteriors q_phi(z|x), the paper's recognition model, as `Guide`s.

A guide is functions of statistics; an encoder of any library provides them.
"""

from aevb.densities import Guide

diag_normal = Guide(
    sample=lambda key, stats: stats.sample(key),
    log_prob=lambda stats, z: stats.log_prob(z),
    kl=lambda stats: stats.kl_to_standard_normal(),
)
"""N(mean, diag(exp(log_var))), eq. (9); its statistics are a `DiagNormal`, its prior N(0, I)."""
