"""The reparameterizations of section 2.4: z = g(params, eps), where eps has no parameters.

One file for each of the paper's three ways, one entry for each of its families. The gradient of an
expectation over z passes through g. Elliptical and Dirichlet are joint over the dimensions of z;
all others act on each by itself, and their `log_prob` sums over dimensions. Logistic stands in two
of the paper's lists, and here in two tables, as one entry.
"""

from aevb.reparam.composition import COMPOSITION
from aevb.reparam.family import Family
from aevb.reparam.inverse_cdf import INVERSE_CDF
from aevb.reparam.location_scale import LOCATION_SCALE

FAMILIES: dict[str, Family] = {**INVERSE_CDF, **LOCATION_SCALE, **COMPOSITION}
