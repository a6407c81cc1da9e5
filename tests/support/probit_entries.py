"""An experiment whose likelihood has an operation (erf) for which pages have no JavaScript."""

import jax

from aevb.config import default_config
from aevb.distributions import DiagNormal
from aevb.likelihoods import Likelihood


def probit(num_dims):
    """Returns a Gaussian whose mean is the distribution function of N(0, 1) at the outputs."""

    def normal(heads):
        return DiagNormal(jax.scipy.special.ndtr(heads["probits"]), heads["log_var"])

    return Likelihood(
        heads={"probits": 1, "log_var": 1},
        kinds=("grey",),
        log_probs=lambda heads, x: normal(heads).log_probs(x),
        mean=lambda heads: normal(heads).mean,
        sample=lambda key, heads: normal(heads).sample(key),
    )


def get_entries():
    return {"likelihood": {"probit": probit}}


def get_config():
    config = default_config()
    config.model.likelihood = "probit"
    config.model.hidden = (10,)
    config.train.num_examples = 2000
    config.train.first_eval = 1000
    return config
